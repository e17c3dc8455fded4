"""The rows people have: which columns each kind carries, and what makes a row unusable."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from prefjax.checks import refuse
from prefjax.data.columns import (
    DROP,
    EITHER,
    MESSAGES,
    TEXT,
    Fault,
    chatml,
    is_conversational,
    label_fault,
    list_fault,
    number_fault,
    quoted,
    spoken,
    text_fault,
)
from prefjax.data.pairs import unpair, with_prompt


class Kind(NamedTuple):
    """A kind of record: its name and its columns, which are those that TRL users have."""

    name: str
    columns: tuple[str, ...]
    needs: str  # in words, for errors
    used_by: str  # likewise


PREFERENCE = Kind(
    "preference", ("prompt", "chosen", "rejected"), "a pair needs a prompt and two non-empty completions",
    "--algorithm dpo, reward or preference",
)  # fmt: skip
PROMPT_COMPLETION = Kind(
    "prompt_completion", ("prompt", "completion"), "a row needs a prompt and a non-empty completion",
    "--algorithm sft",
)  # fmt: skip
PROMPT_ONLY = Kind(
    "prompt_only", ("prompt",), "a row needs a non-empty prompt", "an algorithm that samples, such as nash_md"
)
# The column is "text" or "messages"; "conversations" is read as "messages".
LANGUAGE_MODELING = Kind(
    "language_modeling", ("text",), "a row needs a non-empty text or conversation", "--algorithm sft"
)
UNPAIRED = Kind(
    "unpaired", ("prompt", "completion", "label"), "a row needs a prompt, a non-empty completion and its label",
    "--algorithm kto",
)  # fmt: skip
# Best first, or with "ranks" (1 is best) or "scores" (larger is better) to sort by.
RANKED = Kind(
    "ranked", ("prompt", "completions"), "a row needs a prompt and two or more non-empty completions",
    "--algorithm ranked",
)  # fmt: skip
# The completions are the steps of one answer, each labelled right or wrong.
STEPWISE = Kind(
    "stepwise", ("prompt", "completions", "labels"), "a row needs a prompt, non-empty steps and their labels",
    "--algorithm process",
)  # fmt: skip


# A list to rank has two completions, an answer one step.
LEAST = {(RANKED, "completions"): 2, (STEPWISE, "completions"): 1}


class Identity(NamedTuple):
    """Which data a run saw: what a checkpoint keeps beside its cursor. `identity._asdict()` is JSON."""

    sha256: str  # of the source, all of it
    rows: int  # that were kept
    kind: str


class Records(NamedTuple):
    """Rows of one kind, in the order of the source.

    A row is `{column: value, …, "extras": {…}, "line": its line, or row from 1, in the source}`. A text column
    is a string, or a list of messages where the source is conversational; "extras" holds every column that is
    not one of the kind's, for reward functions and templates.
    """

    kind: Kind
    source: str  # the file, as the user named it
    rows: Sequence[Mapping[str, Any]]
    skipped: dict[str, int]  # reason: how many rows were left out for it
    identity: Identity


def check_row(record: object, kind: Kind) -> list[dict[str, Any]] | Fault:
    """The rows that one decoded record gives, or what is wrong with it.

    It gives one, but for a preference pair where unpaired rows are asked for: that gives two, see `unpair`.
    A preference row without "prompt", or with a "prompt" of text beside conversations, has its prompt in front
    of both completions, see `with_prompt`.
    """
    if not isinstance(record, Mapping):
        hint = "One JSON object a line: a JSON array has to be rewritten as JSON Lines."
        expected = f"a JSON object with {quoted(kind.columns)} is needed"
        return Fault("not an object", f"the row is {spoken(record)}", expected, hint)
    if kind == UNPAIRED and kind_of(record) == PREFERENCE:
        pair = check_row(record, PREFERENCE)
        return pair if isinstance(pair, Fault) else unpair(pair[0])
    names = _taken(record, kind)
    if missing := [name for name in names if name not in record]:
        return _missing(record, kind, missing)
    row = {name: _renamed(record[name]) for name in names}
    for name in names:
        if (fault := _value_fault(name, row[name], kind)) is not None:
            return fault
    made = _made(row, kind)
    if isinstance(made, Fault):
        return made
    extras = {name: value for name, value in record.items() if name not in names}
    return _mixed(made) or [{**made, "extras": extras}]


def kind_of(columns: Collection[str]) -> Kind | None:
    """The kind of record that columns look like, or None where that is not clear."""
    for kind in (UNPAIRED, PREFERENCE, STEPWISE, RANKED, PROMPT_COMPLETION):
        if all(name in columns or (kind == PREFERENCE and name == "prompt") for name in kind.columns):
            return kind
    if any(name in columns for name in ("chosen", "rejected", "completion", "completions")):
        return None  # half a pair, a completion without a prompt
    if any(name in columns for name in ("text", "messages", "conversations")):
        return LANGUAGE_MODELING
    return PROMPT_ONLY if "prompt" in columns else None


def place(source: str, line: int | None = None) -> str:
    """`pairs.jsonl, line 17`: where an error is."""
    return source if line is None else f"{source}, line {line}"


def refuse_row(source: str, line: int, fault: Fault):
    """Raises the `InputError` of one unusable row."""
    refuse(place(source, line), fault.got, fault.expected, fault.todo)


def _taken(record: Mapping[str, Any], kind: Kind) -> tuple[str, ...]:
    """The columns of this record that are the kind's; the others are extras."""
    if kind == PREFERENCE and "prompt" not in record:
        return ("chosen", "rejected")
    if kind == LANGUAGE_MODELING:
        return _there(record, "messages", "conversations", "text")[:1] or kind.columns
    return kind.columns + (_there(record, "ranks", "scores") if kind == RANKED else ())


def _there(record: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    # A table has its columns in every row: null stands for one that this row does not have.
    return tuple(name for name in names if record.get(name) is not None)


def _renamed(value: Any) -> Any:
    if is_conversational(value):
        return chatml(value)
    if isinstance(value, list):
        return [chatml(inner) if is_conversational(inner) else inner for inner in value]
    return value


def _missing(record: Mapping[str, Any], kind: Kind, missing: Sequence[str]) -> Fault:
    found = kind_of(record)
    todo = "Rename the columns, or choose the kind of record that the file holds."
    if found is not None and found != kind:
        todo = f"These are {found.name} columns: take {found.used_by}, or rename them."
    columns = '"text" or "messages"' if kind == LANGUAGE_MODELING else quoted(kind.columns)
    return Fault(
        "missing column",
        f"no column {quoted(missing)}; the columns found are {quoted(record) or 'none'}",
        f"a{'n' * (kind == UNPAIRED)} {kind.name} row has {columns}",
        todo,
    )


def _value_fault(name: str, value: Any, kind: Kind) -> Fault | None:
    text = TEXT if name == "text" or kind == STEPWISE else EITHER
    if name == "label":
        return label_fault(name, value)
    if name not in ("completions", "labels", "ranks", "scores"):
        return text_fault(
            name, value, MESSAGES if name in ("messages", "conversations") else text, kind.needs
        )
    if (fault := list_fault(name, value, LEAST.get((kind, name), 0))) is not None:
        return fault
    for i, inner in enumerate(value):
        one = f"{name}[{i}]"
        if name == "completions":
            fault = text_fault(one, inner, text, kind.needs)
        else:
            fault = label_fault(one, inner) if name == "labels" else number_fault(one, inner)
        if fault is not None:
            return fault
    return None


def _made(row: dict[str, Any], kind: Kind) -> dict[str, Any] | Fault:
    """What a row becomes whose columns, each for itself, are good."""
    if kind == PREFERENCE:
        return with_prompt(row)
    if kind in (RANKED, STEPWISE):
        return _ordered(row)
    if kind == UNPAIRED:
        return {**row, "label": bool(row["label"])}
    return {"messages": row["conversations"]} if "conversations" in row else row


def _ordered(row: dict[str, Any]) -> dict[str, Any] | Fault:
    """A row with a list of completions: steps as they are, ranked ones best first, where ties keep their order.

    Ranks decide, where there are ranks and scores.
    """
    count = len(row["completions"])
    for name in ("labels", "ranks", "scores"):
        if len(row.get(name, row["completions"])) != count:
            got = f'"completions" has {count}, "{name}" has {len(row[name])}'
            return Fault("lengths differ", got, "one for each completion is expected", DROP)
    if "labels" in row:
        return {**row, "labels": [bool(label) for label in row["labels"]]}
    keys = row.get("ranks") or [-score for score in row.get("scores", [0] * count)]
    order = sorted(range(count), key=keys.__getitem__)
    return {name: value if name == "prompt" else [value[i] for i in order] for name, value in row.items()}


def _mixed(row: Mapping[str, Any]) -> Fault | None:
    """The fault of text beside messages, which cannot be joined."""
    texts = {
        name: row[name] for name in row if name not in ("label", "labels", "ranks", "scores", "completions")
    }
    texts |= {f"completions[{i}]": value for i, value in enumerate(row.get("completions", []))}
    text = next((name for name, value in texts.items() if isinstance(value, str)), None)
    talk = next((name for name, value in texts.items() if not isinstance(value, str)), None)
    if text is None or talk is None:
        return None
    got = f'"{text}" is text, "{talk}" is a list of messages'
    return Fault(
        "text beside messages", got, "either all are text or all are messages", "Write text as a message."
    )
