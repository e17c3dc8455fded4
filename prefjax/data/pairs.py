"""Preference pairs: the prompt that two answers share, and a pair as two rows that stand alone."""

from collections.abc import Mapping
from typing import Any

from prefjax.data.columns import DROP, Fault


def extract_prompt(chosen: Any, rejected: Any) -> dict[str, Any]:
    """Takes the prompt that two texts, or two conversations, share out of them, as TRL's `extract_prompt` does.

    The prompt is their longest common prefix, in characters (less the space that ends it, which opens the
    completions) or in messages. Where one is a prefix of the other, the last shared character or message
    stays a completion's, so that neither is empty.
    """
    shorter = min(len(chosen), len(rejected))
    end = next((i for i in range(shorter) if chosen[i] != rejected[i]), None)
    if end is None:
        end = max(shorter - 1, 0)
    elif end > 0 and chosen[end - 1] == " ":
        end -= 1
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def with_prompt(row: dict[str, Any]) -> dict[str, Any] | Fault:
    """A preference row with its prompt apart, where its completions begin with it.

    They do where there is no "prompt", or one of text beside conversations.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen == rejected:
        return Fault("rejected equals chosen", '"rejected" equals "chosen"', "a pair needs two answers", DROP)
    if isinstance(chosen, str) != isinstance(rejected, str):
        return row  # refused as mixed
    # Many sets of conversations repeat their first question as text; TRL's `maybe_extract_prompt` knows them too.
    repeated = isinstance(chosen, list) and isinstance(row.get("prompt"), str)
    if "prompt" in row and not repeated:
        return row
    unit, seen = (
        ("character", 'no column "prompt"')
        if isinstance(chosen, str)
        else ("message", 'no "prompt" of messages')
    )
    parts = extract_prompt(chosen, rejected)
    if parts["prompt"]:
        return parts
    return Fault(
        "no shared prompt",
        f'{seen}, and "chosen" and "rejected" differ from the first {unit} on',
        'a preference row has "prompt", or both completions start with it',
        DROP,
    )


def unpair(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A preference row as two unpaired ones, the liked one first, the extras with both.

    The rows are those of TRL's `unpair_preference_dataset`, which has all liked ones of a thousand first.
    """
    return [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen", "extras": row["extras"]}
        for name in ("chosen", "rejected")
    ]
