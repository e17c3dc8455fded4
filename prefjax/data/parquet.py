"""Parquet in: one file, or shards in the order of their names, row by row."""

import glob
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from prefjax.checks import refuse
from prefjax.data.tables import Table, check_readable, plain

EXPECTED = "a Parquet file is expected"
BATCH = 256  # Rows that are Python objects at a time.


def parquet_table(source: str | os.PathLike[str]) -> Table:
    """The rows of a file, of the `*.parquet` files of a directory, or of those that a pattern (`*`) matches.

    Several files are read in the order of their names, and a row's number counts on from one to the next.
    """
    source = os.fspath(source)
    files = _files(source)
    for file in files:
        check_readable(file, EXPECTED)
    return Table(source, "parquet", "", files, partial(_records, files))


def _files(source: str) -> tuple[str, ...]:
    if os.path.isdir(source):
        pattern = os.path.join(glob.escape(source), "*.parquet")
    elif glob.has_magic(source) and not os.path.exists(source):
        pattern = source
    else:
        return (source,)
    files = tuple(sorted(glob.glob(pattern)))
    if not files:
        arrow = glob.glob(os.path.join(glob.escape(source), "*.arrow"))
        todo = "Write Parquet, as with `dataset.to_parquet(PATH)`." if arrow else "Check the path."
        refuse(source, "no Parquet file is there", EXPECTED, todo)
    # Published sets keep train-00000-of-00002.parquet beside test-00000-of-00001.parquet.
    splits = {re.sub(r"-\d+-of-\d+.*", "", os.path.basename(file)) for file in files}
    if len(splits) > 1 and any(re.search(r"-\d+-of-\d+", file) for file in files):
        found = ", ".join(sorted(splits))
        todo = (
            f'Name those you mean, as in "{os.path.join(os.path.dirname(files[0]), min(splits))}-*.parquet".'
        )
        refuse(source, f"it holds shards of several sets ({found})", "shards of one are expected", todo)
    return files


def _records(files: tuple[str, ...]) -> Iterator[tuple[int, Any]]:
    # Here, so that `import prefjax.data` does not pay for it.
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        refuse(files[0], "pyarrow is not installed", "Parquet needs it", 'Run `pip install "prefjax[text]"`.')
    number = 0
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(BATCH):
                    for row in batch.to_pylist(maps_as_pydicts="lossy"):
                        number += 1
                        yield number, {name: _without_nulls(plain(value)) for name, value in row.items()}
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = str(error).splitlines()[0].rstrip(".")
            refuse(
                file,
                f"it cannot be read as Parquet ({said})",
                "a whole Parquet file is expected",
                "Get it again.",
            )


def _without_nulls(value: Any) -> Any:
    # A struct has all its fields in every row, so null is how Parquet says that a message has no tool calls;
    # a template that asks whether there are some has to find none. A message without content says so itself.
    if isinstance(value, dict):
        return {
            name: _without_nulls(inner)
            for name, inner in value.items()
            if inner is not None or name == "content"
        }
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
