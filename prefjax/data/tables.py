"""A table: something outside that can be read from its first row to its last, any number of times."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from prefjax.checks import refuse, require
from prefjax.data.columns import Fault
from prefjax.data.records import Kind, check_row

Bad = Literal["error", "skip"]


class Table(NamedTuple):
    """Rows as some reader finds them, before anybody asks what kind of record they are."""

    source: str  # as the user named it
    reader: str  # "jsonl", "parquet" or "tfds"
    part: str  # what else says which rows these are: of a TFDS set its name and split
    files: tuple[str, ...]  # whose bytes the rows are made from
    records: Callable[[], Iterator[tuple[int, Any]]]  # line or row, from 1, and an object or a `Fault`

    def rows(self, kind: Kind) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
        """Yields each line's number with its row, or rows, or its fault; raises nothing of its own."""
        for line, record in self.records():
            found = record if isinstance(record, Fault) else check_row(record, kind)
            if isinstance(found, Fault):
                yield line, found
            else:
                yield from ((line, {**row, "line": line}) for row in found)

    def sha256(self, quiet: bool = True) -> str:
        """Of one file's bytes; of several: of all their bytes, in order; of a part of files: of its name too."""
        digest = hashlib.sha256(self.part.encode())
        for file in self.files:
            _hash(file, digest, quiet)
        return digest.hexdigest()

    def stamp(self) -> list[tuple[int, int]]:
        """What changes when a file does, and is quick to ask for."""
        stats = [os.stat(file) for file in self.files]
        return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    return _hash(path, hashlib.sha256(), quiet=True).hexdigest()


def check_bad(bad: str) -> None:
    """Raises unless `bad` is one of its choices."""
    require(bad in ("error", "skip"), "bad", f"{bad!r}", '"error" or "skip" is expected', "Choose one.")


def check_readable(path: str | os.PathLike[str], expected: str) -> str:
    """The path as text, once it is known to name a file that can be read; `expected` says what file."""
    source = os.fspath(path)
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


def plain(value: Any) -> Any:
    """A value of a table as JSON has it: numbers, text, lists and objects; dates and the like as their text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        # What is not UTF-8 becomes lone surrogates: a fault in a text column, and no loss in any other.
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [plain(inner) for inner in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _hash(path: str | os.PathLike[str], digest: Any, quiet: bool) -> Any:
    size = os.stat(path).st_size
    with open(path, "rb") as file, tqdm(
        desc=f"hashing {path}", total=size, unit="B", unit_scale=True, disable=quiet
    ) as bar:  # fmt: skip
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest
