"""What TRL makes of rows before it tokenises them: writes `trl_records.json`. Needs the extra [oracle].

python -m tests.data.trl_records
"""

import copy
import json
from pathlib import Path

GOLDEN = Path(__file__).with_name("trl_records.json")


def said(*turns: str, roles: tuple[str, ...] = ("user", "assistant")) -> list[dict]:
    return [{"role": roles[i % len(roles)], "content": turn} for i, turn in enumerate(turns)]


def reply(text: str) -> list[dict]:
    return said(text, roles=("assistant",))


CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}],
}
ANSWER = {"role": "tool", "name": "sum", "content": "1"}
THOUGHT = {"role": "assistant", "content": "Blue.", "thinking": "It is day."}
RULE = {"role": "system", "content": "Be brief."}

# Pairs whose prompt is in their completions: text, one turn, several, tools, thinking, one a prefix of the other.
IMPLICIT = [
    {"chosen": "Sky? It is blue.", "rejected": "Sky? It is green."},
    {"chosen": "Sky?blue", "rejected": "Sky?green"},
    {"chosen": "abc", "rejected": "abcd"},
    {"chosen": said("Sky?", "Blue."), "rejected": said("Sky?", "Green.")},
    {
        "chosen": [RULE, *said("Sky?", "Blue.", "Sea?", "Blue.")],
        "rejected": [RULE, *said("Sky?", "Blue.", "Sea?", "Red.")],
    },
    {
        "chosen": [*said("Sky?"), CALL, ANSWER, THOUGHT],
        "rejected": [*said("Sky?"), CALL, ANSWER, *reply("Red.")],
    },
    {"chosen": said("Sky?", "Blue."), "rejected": said("Sky?", "Blue.", "Sure?", "Yes.")},
    {"chosen": said("Sky?", "Blue."), "rejected": said("Sky?", "Red.", "Sure?", "Yes.")},
    {"prompt": "Sky?", "chosen": said("Sky?", "Blue."), "rejected": said("Sky?", "Red.")},
    {"prompt": said("Sky?"), "chosen": reply("Blue."), "rejected": reply("Red.")},
    {"prompt": "Sky?", "chosen": " Blue.", "rejected": " Red."},
]
TEXT_PAIRS = [
    {"prompt": "Sky?", "chosen": " Blue.", "rejected": " Red.", "id": 1},
    {"prompt": "Sea?", "chosen": " Green.", "rejected": " Grey.", "id": 2},
]
TALK_PAIRS = [
    {"prompt": said("Sky?"), "chosen": reply("Blue."), "rejected": reply("Red."), "id": 1},
    {"prompt": said("Sky?", "Blue.", "Sea?"), "chosen": reply("Grey."), "rejected": reply("Red."), "id": 2},
]
CONVERSATIONS = [
    {"conversations": [{"from": "user", "value": "Sky?"}, {"from": "assistant", "value": "Blue."}]},
    {
        "conversations": [
            {"from": "system", "value": ""},
            {"from": "human", "value": "Sky?"},
            {"from": "gpt", "value": "B", "w": 1},
        ]
    },
    {"conversations": said("Sky?", "Blue.")},
    {"messages": said("Sky?", "Blue.")},
    {"messages": [{"from": "user", "value": "Sky?"}, CALL, ANSWER, THOUGHT]},
]


def trl_records() -> dict:
    from datasets import Dataset
    from trl import maybe_convert_to_chatml, maybe_extract_prompt, unpair_preference_dataset

    def unpaired(rows):
        # It keeps the columns that it is given, in one table for each format.
        return list(unpair_preference_dataset(Dataset.from_list(rows)))

    return {
        "implicit": [maybe_extract_prompt(copy.deepcopy(row)) for row in IMPLICIT],
        "unpaired": unpaired(TEXT_PAIRS) + unpaired(TALK_PAIRS),
        "chatml": [maybe_convert_to_chatml(copy.deepcopy(row)) for row in CONVERSATIONS],
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(trl_records()) + "\n")
