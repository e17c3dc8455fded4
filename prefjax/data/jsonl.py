"""JSON Lines in: one object a line, and one clear error, with its line, for whatever is not."""

import codecs
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from prefjax.checks import refuse, require
from prefjax.data.records import DROP, Fault, Identity, Kind, Records, check_row, refuse_row

Bad = Literal["error", "skip"]


def read_jsonl(path: str | os.PathLike[str], kind: Kind, *, bad: Bad = "error") -> Records:
    """Reads a whole file into memory.

    Args:
      path: a UTF-8 file with one JSON object a line. Blank lines at the end do not count, nor does a
        byte order mark at the start.
      kind: `PREFERENCE`, `PROMPT_COMPLETION` or `PROMPT_ONLY`: the columns that each row must have.
      bad: what an unusable row does. "error" stops at the first one, "skip" leaves it out and counts it.

    Returns: the rows in file order, the number skipped for each reason, and the file's identity.
    Raises: `InputError` with file and line for the first unusable row (unless skipped), and with the
      file for one that is missing, unreadable, empty, or left without a row.
    """
    source = check_readable(path, bad)
    rows: list[dict[str, str | int]] = []
    skipped: Counter[str] = Counter()
    digest = hashlib.sha256()
    for line, row in parse_jsonl(path, kind, digest):
        if isinstance(row, Fault):
            if bad == "error":
                refuse_row(source, line, row)
            skipped[row.reason] += 1
        else:
            rows.append({**row, "line": line})
    require_rows(source, len(rows), skipped, kind)
    return Records(kind, source, rows, dict(skipped), Identity(digest.hexdigest(), len(rows), kind.name))


def parse_jsonl(path: str | os.PathLike[str], kind: Kind, digest=None) -> Iterator[tuple[int, dict | Fault]]:
    """Yields the number (from 1) and the row, or its fault, of each line; streams, raises nothing of its own.

    `digest`, if given, is updated with every byte of the file.
    """
    blank: list[int] = []
    with open(path, "rb") as file:
        offset = 0
        for line, raw in enumerate(file, 1):
            if digest is not None:
                digest.update(raw)
            # Blank lines are a fault only once something follows them.
            if not raw.strip():
                blank.append(line)
            else:
                yield from (
                    (number, Fault("blank line", "the line is blank", "a JSON object is needed", DROP))
                    for number in blank
                )
                blank.clear()
                yield line, _parse_line(raw, offset, kind)
            offset += len(raw)


def _parse_line(raw: bytes, offset: int, kind: Kind) -> dict | Fault:
    if offset == 0:
        for mark, name in (
            (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
            (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
        ):  # fmt: skip
            if raw.startswith(mark):
                return Fault(
                    "not UTF-8", f"the file starts with the byte order mark of {name}", "UTF-8 is expected",
                    f"Convert it, as with `iconv -f {name} -t UTF-8`.",
                )  # fmt: skip
        if raw.startswith(codecs.BOM_UTF8):  # Some editors write one; it says nothing.
            raw, offset = raw.removeprefix(codecs.BOM_UTF8), len(codecs.BOM_UTF8)
    try:
        text = raw.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(
            "not UTF-8",
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}, "
            f"byte {offset + error.start + 1} of the file) is not UTF-8",
            "UTF-8 is expected",
            'Convert the file, as with `iconv -t UTF-8`, or load with bad="skip".',
        )
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return Fault(
            "malformed JSON",
            f"malformed JSON at column {error.colno}: {error.msg.removesuffix(' at')}",
            "one whole JSON object a line is expected",
            DROP,
        )
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        got = f"JSON that cannot be read: {type(error).__name__}: {error}"
        return Fault("malformed JSON", got, "one JSON object a line is expected", DROP)
    return check_row(record, kind)


def check_readable(path: str | os.PathLike[str], bad: str) -> str:
    """The path as text, once it is known to name a file that can be read and `bad` to be a choice."""
    source = os.fspath(path)
    require(bad in ("error", "skip"), "bad", f"{bad!r}", '"error" or "skip" is expected', "Choose one.")
    expected = "a JSON Lines file is expected"
    require(not os.path.isdir(source), source, "this is a directory", expected, "Name the file.")
    require(os.path.exists(source), source, "there is no such file", expected, "Check the path.")
    try:
        with open(source, "rb") as file:
            file.read(1)
    except OSError as error:
        refuse(source, f"it cannot be read ({error.strerror})", expected, "Check its permissions.")
    return source


def require_rows(source: str, kept: int, skipped: Counter[str] | dict[str, int], kind: Kind) -> None:
    """Raises unless some row is left."""
    if kept:
        return
    if not skipped:
        refuse(source, "the file is empty", f"{kind.name} rows are expected", "Check how it was written.")
    reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(skipped.items()))
    refuse(
        source,
        f"no row is left; all {sum(skipped.values())} were skipped ({reasons})",
        f"at least one usable {kind.name} row is expected",
        'Load with bad="error" to see the first fault in full.',
    )
