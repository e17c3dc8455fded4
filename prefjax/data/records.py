"""The rows people have: which columns each kind carries, and what makes a row unusable."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prefjax.checks import refuse


class Kind(NamedTuple):
    """A kind of record: its name and its text columns, which are those that TRL users have."""

    name: str
    columns: tuple[str, ...]
    needs: str  # in words, for errors


PREFERENCE = Kind(
    "preference", ("prompt", "chosen", "rejected"), "a pair needs a prompt and two non-empty completions"
)
PROMPT_COMPLETION = Kind(
    "prompt_completion", ("prompt", "completion"), "a row needs a prompt and a non-empty completion"
)
PROMPT_ONLY = Kind("prompt_only", ("prompt",), "a row needs a non-empty prompt")


class Identity(NamedTuple):
    """Which data a run saw: what a checkpoint keeps beside its cursor. `identity._asdict()` is JSON."""

    sha256: str  # of the source file, all of it
    rows: int  # that were kept
    kind: str


class Records(NamedTuple):
    """Rows of one kind, in file order, each `{column: text, …, "line": its line in the source}`."""

    kind: Kind
    source: str  # the file, as the user named it
    rows: Sequence[Mapping[str, str | int]]
    skipped: dict[str, int]  # reason: how many rows were left out for it
    identity: Identity


class Fault(NamedTuple):
    """Why a row cannot be used: a short reason to count by, and the three parts of an error."""

    reason: str
    got: str
    expected: str
    todo: str


DROP = 'Mend or drop the line, or load with bad="skip".'


def check_row(record: object, kind: Kind) -> dict[str, str] | Fault:
    """The text columns of one decoded row, or what is wrong with it. Other columns are left out.

    A preference row without "prompt" has it in front of both completions; see `extract_prompt`.
    """
    if not isinstance(record, Mapping):
        hint = "One JSON object a line: a JSON array has to be rewritten as JSON Lines."
        got, expected = f"the row is {_spoken(record)}", "a JSON object with text columns is needed"
        return Fault("not an object", got, expected, hint)
    needed = [name for name in kind.columns if name in record or name != "prompt" or kind != PREFERENCE]
    missing = [name for name in needed if name not in record]
    if missing:
        return Fault(
            "missing column",
            f"no column {_quoted(missing)}; the columns found are {_quoted(record) or 'none'}",
            f"a {kind.name} row has {_quoted(kind.columns)}",
            "Rename the columns, or choose the kind of record that the file holds.",
        )
    for name in needed:
        if (fault := _text_fault(name, record[name], kind)) is not None:
            return fault
    row = {name: record[name] for name in needed}
    if kind != PREFERENCE:
        return row
    if row["chosen"] == row["rejected"]:
        return Fault("rejected equals chosen", '"rejected" equals "chosen"', "a pair needs two answers", DROP)
    if "prompt" not in row:
        row = extract_prompt(row["chosen"], row["rejected"])
        if not row["prompt"]:
            return Fault(
                "no shared prompt",
                'no column "prompt", and "chosen" and "rejected" differ from the first character on',
                'a preference row has "prompt", or both completions start with it',
                DROP,
            )
    return row


def extract_prompt(chosen: str, rejected: str) -> dict[str, str]:
    """Takes the prompt that two texts share out of them, where TRL's `extract_prompt` would.

    The prompt is their longest common prefix, less the space that ends it, which opens the
    completions. Where one text is a prefix of the other, the last shared character stays a
    completion's, so that neither is empty.
    """
    shorter = min(len(chosen), len(rejected))
    end = next((i for i in range(shorter) if chosen[i] != rejected[i]), None)
    if end is None:
        end = max(shorter - 1, 0)
    elif end > 0 and chosen[end - 1] == " ":
        end -= 1
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def place(source: str, line: int | None = None) -> str:
    """`pairs.jsonl, line 17`: where an error is."""
    return source if line is None else f"{source}, line {line}"


def refuse_row(source: str, line: int, fault: Fault):
    """Raises the `InputError` of one unusable row."""
    refuse(place(source, line), fault.got, fault.expected, fault.todo)


def _text_fault(name: str, value: object, kind: Kind) -> Fault | None:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return Fault(
            "conversational",
            f'"{name}" is a list of messages',
            "text columns are expected",
            "Apply the tokeniser's chat template first, and store the text it renders.",
        )
    if not isinstance(value, str):
        return Fault("wrong type", f'"{name}" is {_spoken(value)}', "a string is expected", DROP)
    if not value:
        return Fault("empty", f'"{name}" is empty', kind.needs, DROP)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON may escape half of a surrogate pair; no tokeniser and no UTF-8 file can hold it.
        half = f"\\u{ord(value[error.start]):04x}"
        return Fault(
            "not Unicode text", f'"{name}" holds the lone surrogate {half}', "text is expected", DROP
        )
    return None


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _spoken(value: object) -> str:
    """A JSON value's type in JSON's own words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)
