"""Rows, good and bad: each fault is named, with the line it is on."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import (
    LANGUAGE_MODELING,
    PREFERENCE,
    PROMPT_COMPLETION,
    PROMPT_ONLY,
    RANKED,
    STEPWISE,
    UNPAIRED,
    kind_of,
    read_jsonl,
)
from prefjax.data.columns import Fault, chatml
from prefjax.data.pairs import extract_prompt
from prefjax.data.records import check_row
from prefjax.data.tables import check_bad
from tests.data.small import write_jsonl
from tests.data.trl_records import (
    ANSWER,
    CALL,
    CONVERSATIONS,
    GOLDEN,
    IMPLICIT,
    TALK_PAIRS,
    TEXT_PAIRS,
    THOUGHT,
    reply,
    said,
    trl_records,
)

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}

MESSAGES = [{"role": "user", "content": "a"}]
HALF = b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}'
FOUND = 'no column "rejected"; the columns found are "prompt", "chosen", "x"'
NEEDS = '"rejected" is empty; a pair needs a prompt and two non-empty completions'
LATIN = "byte 13 of the line (0xe9, byte 61 of the file) is not UTF-8"

# What stands on line 2, the reason it is counted under, and what the message has to say.
FAULTS = {
    "a list": (
        [GOOD],
        "not an object",
        'the row is a list; a JSON object with "prompt", "chosen", "rejected" is',
    ),
    "null": (None, "not an object", "the row is null"),
    "no rejected": ({"prompt": "p", "chosen": "a", "x": 1}, "missing column", FOUND),
    "no columns": ({}, "missing column", 'no column "chosen", "rejected"; the columns found are none'),
    "number": (
        {**GOOD, "chosen": 3},
        "wrong type",
        '"chosen" is a number; a string, or a list of messages, is expected',
    ),
    "boolean": ({**GOOD, "prompt": True}, "wrong type", '"prompt" is a boolean'),
    "null text": ({**GOOD, "rejected": None}, "wrong type", '"rejected" is null'),
    "strings": ({**GOOD, "rejected": ["b"]}, "wrong type", '"rejected" is a list'),
    "messages": (
        {**GOOD, "chosen": MESSAGES},
        "text beside messages",
        '"prompt" is text, "chosen" is a list of',
    ),
    "empty": ({**GOOD, "rejected": ""}, "empty", NEEDS),
    "empty prompt": ({**GOOD, "prompt": ""}, "empty", '"prompt" is empty'),
    "equal": ({**GOOD, "rejected": "a"}, "rejected equals chosen", '"rejected" equals "chosen"'),
    "nothing shared": ({"chosen": "ab ", "rejected": "b"}, "no shared prompt", 'no column "prompt"'),
    "surrogate": (HALF, "not Unicode text", "the lone surrogate \\ud83d"),
    "cut off": (b'{"prompt": "p', "malformed JSON", "malformed JSON at column 12: Unterminated string"),
    "two objects": (b"{} {}", "malformed JSON", "malformed JSON at column 4: Extra data"),
    "brackets": (b"[" * 100_000, "malformed JSON", "RecursionError"),
    "digits": (b'{"prompt": ' + b"9" * 5000 + b"}", "malformed JSON", "cannot be read"),
    "blank": (b"  ", "blank line", "the line is blank"),
    "not UTF-8": (b'{"prompt": "\xe9"}', "not UTF-8", LATIN),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_error_with_file_and_line_or_counted(tmp_path, name):
    row, reason, said = FAULTS[name]
    path = write_jsonl(tmp_path / "pairs.jsonl", GOOD, row, GOOD)
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert said in str(error.value)

    read = read_jsonl(path, PREFERENCE, bad="skip")
    assert [row["line"] for row in read.rows] == [1, 3]
    assert read.skipped == {reason: 1}
    assert read.identity.rows == 2


def test_columns_of_each_kind_and_the_others_in_extras(tmp_path):
    extra = {"id": [1, {"a": 2}]}
    path = write_jsonl(tmp_path / "rows.jsonl", {"completion": "c", "prompt": "p", **extra})
    completion = {"prompt": "p", "completion": "c", "extras": extra, "line": 1}
    assert read_jsonl(path, PROMPT_COMPLETION).rows == [completion]
    prompt = {"prompt": "p", "extras": {"completion": "c", **extra}, "line": 1}
    assert read_jsonl(path, PROMPT_ONLY).rows == [prompt]
    with pytest.raises(
        InputError, match='line 1: no column "chosen", "rejected"; the columns found are "completion"'
    ):
        read_jsonl(path, PREFERENCE)


def test_blank_lines_at_the_end_and_a_byte_order_mark_do_not_count(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "p\xc3\xa9"}\r\n{"prompt": "q"}\n\n  \n')
    read = read_jsonl(path, PROMPT_ONLY)
    assert [row["prompt"] for row in read.rows] == ["pé", "q"]
    assert read.skipped == {}
    # No newline at the end is fine too, and so is U+2028, which is no line's end in JSON.
    path.write_bytes('{"prompt": "a\u2028b"}'.encode())
    assert read_jsonl(path, PROMPT_ONLY).rows[0]["prompt"] == "a\u2028b"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty; preference rows are expected"),
        (b"\n \n", "the file is empty"),
        (
            "{}".encode("utf-16"),
            "line 1: the file starts with the byte order mark of UTF-16; UTF-8 is expected",
        ),
        (b"\xef\xbb\xbf\xff", "line 1: byte 1 of the line (0xff, byte 4 of the file) is not UTF-8"),
    ],
)
def test_files_without_rows(tmp_path, content, said):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_all_rows_skipped(tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", {}, b"{", {**GOOD, "rejected": "a"}, {})
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE, bad="skip")
    said = "all 4 were skipped (1 × malformed JSON, 2 × missing column, 1 × rejected equals chosen)"
    assert said in str(error.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(
        InputError, match=r"nowhere.jsonl: there is no such file; a JSON Lines file is expected\."
    ):
        read_jsonl(tmp_path / "nowhere.jsonl", PREFERENCE)
    with pytest.raises(InputError, match="this is a directory"):
        read_jsonl(tmp_path, PREFERENCE)
    with pytest.raises(InputError, match='\'drop\'; "error" or "skip" is expected'):
        check_bad("drop")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Sky? It is blue.", "Sky? It is green.", "Sky? It is"),  # the space opens the completions
        ("Sky?blue", "Sky?green", "Sky?"),
        ("abc", "abcd", "ab"),  # neither completion is left empty
        ("ab c", "ab  ", "ab"),
    ],
)
def test_an_implicit_prompt_is_taken_out_where_trl_takes_it(chosen, rejected, prompt):
    (row,) = check_row({"chosen": chosen, "rejected": rejected}, PREFERENCE)
    n = len(prompt)
    assert row == {"prompt": prompt, "chosen": chosen[n:], "rejected": rejected[n:], "extras": {}}


@settings(deadline=None)
@given(st.text("ab ", min_size=1), st.text("ab ", min_size=1))
def test_an_implicit_prompt_loses_no_character(chosen, rejected):
    row = extract_prompt(chosen, rejected)
    assert row["prompt"] + row["chosen"] == chosen
    assert row["prompt"] + row["rejected"] == rejected
    assert row["chosen"]
    assert row["rejected"]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text), min_size=1))
def test_any_text_comes_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, *({"prompt": text} for text in texts))
    assert [row["prompt"] for row in read_jsonl(path, PROMPT_ONLY).rows] == texts


# Rows of every kind, text and conversational: what is read, and what becomes of it beside its extras.
QUESTION, LONG = said("Sky?"), said("Sky?", "Blue.", "Sea?")
STEPS = {"prompt": "p", "completions": ["s", "t"], "labels": [True, False]}
ROWS = {
    "pair": (PREFERENCE, GOOD, GOOD),
    "pair of replies": (PREFERENCE, {"prompt": LONG, "chosen": [THOUGHT], "rejected": reply("no")}, ...),
    "tools": (PREFERENCE, {"prompt": LONG, "chosen": [CALL, ANSWER, THOUGHT], "rejected": [CALL]}, ...),
    "text": (LANGUAGE_MODELING, {"text": "t"}, ...),
    "messages": (LANGUAGE_MODELING, {"messages": [*QUESTION, CALL, ANSWER, THOUGHT]}, ...),
    "a null beside": (LANGUAGE_MODELING, {"messages": None, "text": "t"}, {"text": "t"}),
    "renamed": (LANGUAGE_MODELING, {"conversations": QUESTION}, {"messages": QUESTION}),
    "completion": (PROMPT_COMPLETION, {"prompt": "p", "completion": "c"}, ...),
    "reply": (PROMPT_COMPLETION, {"prompt": QUESTION, "completion": [THOUGHT]}, ...),
    "from and value": (
        PROMPT_COMPLETION,
        {"prompt": [{"from": "user", "value": "Sky?"}], "completion": [{"from": "assistant", "value": "B"}]},
        {"prompt": QUESTION, "completion": reply("B")},
    ),
    "prompt": (PROMPT_ONLY, {"prompt": "p"}, ...),
    "parts": (PROMPT_ONLY, {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, ...),
    "liked": (UNPAIRED, {"prompt": "p", "completion": "c", "label": True}, ...),
    "not liked": (
        UNPAIRED,
        {"prompt": QUESTION, "completion": [THOUGHT], "label": 0},
        {"prompt": QUESTION, "completion": [THOUGHT], "label": False},
    ),
    "best first": (RANKED, {"prompt": "p", "completions": ["a", "b", "a"]}, ...),
    "by score": (
        RANKED,
        {"prompt": "p", "completions": ["a", "b", "c", "d"], "scores": [1, 3.5, 1, 2]},
        {"prompt": "p", "completions": ["b", "d", "a", "c"], "scores": [3.5, 2, 1, 1]},
    ),
    "by rank": (
        RANKED,
        {"prompt": QUESTION, "completions": [reply("a"), reply("b")], "ranks": [2, 1], "scores": None},
        {"prompt": QUESTION, "completions": [reply("b"), reply("a")], "ranks": [1, 2]},
    ),
    "steps": (STEPWISE, STEPS, ...),
    "one step": (
        STEPWISE,
        {**STEPS, "completions": ["s"], "labels": [1]},
        {**STEPS, "completions": ["s"], "labels": [True]},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_kind(tmp_path, name):
    kind, given, made = ROWS[name]
    (row,) = read_jsonl(write_jsonl(tmp_path / "rows.jsonl", given), kind).rows
    assert set(row.pop("extras").items()) <= {(name, None) for name in given}
    assert row == {**(given if made is ... else made), "line": 1}
    if "null" not in name:
        assert kind_of(given) == kind


# Of every kind what it refuses: the reason it is counted under, and what is said.
REFUSED = {
    "no role": (
        PROMPT_ONLY,
        {"prompt": [{"content": "a"}]},
        "no role",
        'message 1 of "prompt" has no "role"',
    ),
    "role": (
        PROMPT_ONLY,
        {"prompt": [*QUESTION, {"role": 1}]},
        "no role",
        'the "role" of message 2 of "prompt" is 1',
    ),
    "no content": (
        PROMPT_ONLY,
        {"prompt": [{"role": "user"}]},
        "no content",
        'has no "content"; a text, or tool calls,',
    ),
    "content": (
        PROMPT_ONLY,
        {"prompt": [{"role": "user", "content": 1}]},
        "wrong type",
        'the "content" of message 1 of',
    ),
    "image": (
        PROMPT_ONLY,
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
        "not text",
        "part without text (image)",
    ),
    "half": (
        PROMPT_ONLY,
        {"prompt": [{"role": "user", "content": "\ud83d"}]},
        "not Unicode text",
        "lone surrogate \\ud83d",
    ),
    "half deep": (
        PROMPT_ONLY,
        {"prompt": [{**CALL, "t": [{"a": "\ud83d"}]}]},
        "not Unicode text",
        '"prompt" holds',
    ),
    "no messages": (
        PROMPT_ONLY,
        {"prompt": []},
        "empty",
        '"prompt" has no messages; a row needs a non-empty prompt',
    ),
    "not messages": (
        PROMPT_ONLY,
        {"prompt": [*QUESTION, "b"]},
        "not a message",
        'message 2 of "prompt" is a string',
    ),
    "silent": (
        PROMPT_COMPLETION,
        {"prompt": QUESTION, "completion": reply("")},
        "empty",
        'no message of "completion" says',
    ),
    "mixed": (
        PROMPT_COMPLETION,
        {"prompt": QUESTION, "completion": "a"},
        "text beside messages",
        "either all are text or all",
    ),
    "mixed pair": (
        PREFERENCE,
        {"chosen": QUESTION, "rejected": "a"},
        "text beside messages",
        '"rejected" is text, "chosen"',
    ),
    "nothing shared": (
        PREFERENCE,
        {"chosen": QUESTION, "rejected": reply("a")},
        "no shared prompt",
        "from the first message on",
    ),
    "only repeated": (
        PREFERENCE,
        {"prompt": "Sky?", "chosen": [THOUGHT], "rejected": reply("a")},
        "no shared prompt",
        'no "prompt" of messages',
    ),
    "equal": (
        UNPAIRED,
        {"prompt": "p", "chosen": "a", "rejected": "a"},
        "rejected equals chosen",
        "two answers",
    ),
    "label": (
        UNPAIRED,
        {"prompt": "p", "completion": "c", "label": "good"},
        "wrong type",
        '"label" is a string; true or false',
    ),
    "label 2": (
        UNPAIRED,
        {"prompt": "p", "completion": "c", "label": 2},
        "wrong type",
        '"label" is 2; true or false (or 1 or 0)',
    ),
    "no label": (
        UNPAIRED,
        {"prompt": "p", "completion": "c"},
        "missing column",
        "These are prompt_completion columns: take --algorithm sft",
    ),
    "one": (
        RANKED,
        {"prompt": "p", "completions": ["a"]},
        "too few completions",
        '"completions" has 1; at least 2 expected',
    ),
    "no list": (
        RANKED,
        {"prompt": "p", "completions": "ab"},
        "wrong type",
        '"completions" is a string; a list is expected',
    ),
    "an empty one": (RANKED, {"prompt": "p", "completions": ["a", ""]}, "empty", '"completions[1]" is empty'),
    "mixed list": (
        RANKED,
        {"prompt": "p", "completions": ["a", QUESTION]},
        "text beside messages",
        '"completions[1]" is a list',
    ),
    "scores": (
        RANKED,
        {"prompt": "p", "completions": ["a", "b"], "scores": [1]},
        "lengths differ",
        '"completions" has 2, "scores" has 1',
    ),
    "nan": (
        RANKED,
        {"prompt": "p", "completions": ["a", "b"], "scores": [1, float("nan")]},
        "wrong type",
        '"scores[1]" is nan; a finite',
    ),
    "rank": (
        RANKED,
        {"prompt": "p", "completions": ["a", "b"], "ranks": [True, 2]},
        "wrong type",
        '"ranks[0]" is a boolean',
    ),
    "steps": (STEPWISE, {**STEPS, "labels": [True]}, "lengths differ", '"completions" has 2, "labels" has 1'),
    "no steps": (STEPWISE, {**STEPS, "completions": []}, "too few completions", "at least 1"),
    "steps of messages": (
        STEPWISE,
        {**STEPS, "prompt": QUESTION},
        "wrong type",
        '"prompt" is a list; a string is expected',
    ),
    "step label": (STEPWISE, {**STEPS, "labels": [True, None]}, "wrong type", '"labels[1]" is null'),
    "text": (LANGUAGE_MODELING, {"text": QUESTION}, "wrong type", '"text" is a list; a string is expected'),
    "messages": (
        LANGUAGE_MODELING,
        {"messages": "a"},
        "wrong type",
        '"messages" is a string; a list of messages is',
    ),
    "no text": (
        LANGUAGE_MODELING,
        {"body": "a"},
        "missing column",
        'a language_modeling row has "text" or "messages". Rename',
    ),
    "a pair": (
        PROMPT_COMPLETION,
        GOOD,
        "missing column",
        "These are preference columns: take --algorithm dpo, reward or preference",
    ),
    "half a pair": (
        PROMPT_COMPLETION,
        {"prompt": "p", "chosen": "a"},
        "missing column",
        "Rename the columns, or choose the kind",
    ),
    "steps for a pair": (
        PREFERENCE,
        STEPS,
        "missing column",
        "These are stepwise columns: take --algorithm process",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_each_kind_refuses(tmp_path, name):
    kind, given, reason, words = REFUSED[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(given))
    with pytest.raises(InputError) as error:
        read_jsonl(path, kind)
    assert str(error.value).startswith(f"{path}, line 1: ")
    assert words in str(error.value)
    fault = check_row(given, kind)
    assert isinstance(fault, Fault)
    assert fault.reason == reason


def without_extras(rows):
    return [{name: value for name, value in row.items() if name != "extras"} for row in rows]


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_prompts_are_taken_out_where_trl_takes_them(golden):
    assert without_extras(check_row(row, PREFERENCE)[0] for row in IMPLICIT) == golden["implicit"]


def test_pairs_are_unpaired_as_trl_unpairs_them(golden):
    ours = [row for pair in TEXT_PAIRS + TALK_PAIRS for row in check_row(pair, UNPAIRED)]
    assert [row["label"] for row in ours] == [True, False] * 4
    # TRL has all liked ones first.
    flat = [{**row, **row["extras"]} for row in ours]
    key = lambda row: json.dumps([row["prompt"], row["label"]])  # noqa: E731
    assert sorted(without_extras(flat), key=key) == sorted(golden["unpaired"], key=key)


def test_conversations_are_renamed_as_trl_renames_them(golden):
    assert without_extras(check_row(row, LANGUAGE_MODELING)[0] for row in CONVERSATIONS) == golden["chatml"]


@pytest.mark.oracle
def test_trl_still_does_what_the_golden_says(golden):
    assert trl_records() == golden


MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.text("ab", min_size=1, max_size=2)},
    optional={"thinking": st.text("ab", max_size=1), "tool_calls": st.just([{"name": "f"}])},
)


@settings(deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=4), st.lists(MESSAGE, min_size=1, max_size=4))
def test_no_message_is_lost_or_changed(chosen, rejected):
    assert chatml(chosen) == chosen
    rows = check_row({"chosen": chosen, "rejected": rejected}, PREFERENCE)
    if isinstance(rows, Fault):
        shared = extract_prompt(chosen, rejected)["prompt"]
        assert chosen == rejected or not shared
        return
    (row,) = rows
    assert row["prompt"] + row["chosen"] == chosen
    assert row["prompt"] + row["rejected"] == rejected
    liked, disliked = check_row({"chosen": chosen, "rejected": rejected}, UNPAIRED)
    assert (liked["prompt"], liked["completion"]) == (row["prompt"], row["chosen"])
    assert (disliked["completion"], disliked["label"]) == (row["rejected"], False)


SCORED = st.lists(st.tuples(st.text("abc", min_size=1), st.integers(-3, 3)), min_size=2)


@settings(deadline=None)
@given(SCORED)
def test_a_ranking_is_sorted_best_first_and_ties_keep_their_order(scored):
    row = {
        "prompt": "p",
        "completions": [text for text, _ in scored],
        "scores": [score for _, score in scored],
    }
    (made,) = check_row(row, RANKED)
    pairs = list(zip(made["completions"], made["scores"], strict=True))
    assert pairs == sorted(scored, key=lambda pair: -pair[1])
    by_rank = {"prompt": "p", "completions": row["completions"], "ranks": [4 - score for _, score in scored]}
    assert check_row(by_rank, RANKED)[0]["completions"] == made["completions"]


def test_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p"}\n{"prompt": "q"}\n' * 50))
    assert [row["line"] for row in read_jsonl(path, PROMPT_ONLY).rows] == list(range(1, 101))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"rows.jsonl.gz: it cannot be unpacked \(.*a whole gzip file is expected"
    ):
        read_jsonl(path, PROMPT_ONLY)
