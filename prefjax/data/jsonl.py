"""JSON Lines in: one object a line, and one clear error, with its line, for whatever is not."""

import codecs
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from prefjax.checks import refuse
from prefjax.data.columns import DROP, Fault
from prefjax.data.records import Identity, Kind, Records, refuse_row
from prefjax.data.tables import Bad, Table, check_bad, check_readable, require_rows


def read_jsonl(path: str | os.PathLike[str], kind: Kind, *, bad: Bad = "error") -> Records:
    """Reads a whole file into memory.

    Args:
      path: a UTF-8 file with one JSON object a line, as it is or in gzip (`.gz`). Blank lines at the end do
        not count, nor does a byte order mark at the start.
      kind: such as `PREFERENCE`: the columns that each row must have.
      bad: what an unusable row does. "error" stops at the first one, "skip" leaves it out and counts it.

    Returns: the rows in file order, the number skipped for each reason, and the file's identity.
    Raises: `InputError` with file and line for the first unusable row (unless skipped), and with the
      file for one that is missing, unreadable, empty, or left without a row.
    """
    check_bad(bad)
    table = jsonl_table(path)
    rows: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for line, row in table.rows(kind):
        if isinstance(row, Fault):
            if bad == "error":
                refuse_row(table.source, line, row)
            skipped[row.reason] += 1
        else:
            rows.append(row)
    require_rows(table.source, len(rows), skipped, kind)
    identity = Identity(table.sha256(), len(rows), kind.name)
    return Records(kind, table.source, rows, dict(skipped), identity)


def jsonl_table(path: str | os.PathLike[str]) -> Table:
    """A file of JSON Lines."""
    source = check_readable(path, "a JSON Lines file is expected")
    return Table(source, "jsonl", "", (source,), partial(_records, source))


def _records(source: str) -> Iterator[tuple[int, Any]]:
    blank: list[int] = []
    offset = 0
    for line, raw in enumerate(_lines(source), 1):
        # Blank lines are a fault only once something follows them.
        if not raw.strip():
            blank.append(line)
        else:
            yield from (
                (number, Fault("blank line", "the line is blank", "a JSON object is needed", DROP))
                for number in blank
            )
            blank.clear()
            yield line, _parse_line(raw, offset)
        offset += len(raw)


def _lines(source: str) -> Iterator[bytes]:
    if not source.endswith(".gz"):
        with open(source, "rb") as file:
            yield from file
        return
    try:
        with gzip.open(source) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        refuse(source, f"it cannot be unpacked ({error})", "a whole gzip file is expected", "Get it again.")


def _parse_line(raw: bytes, offset: int) -> Any:
    """What JSON says on the line, or a `Fault`."""
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
        return json.loads(text)
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
