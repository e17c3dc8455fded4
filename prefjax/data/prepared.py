"""Rows written once into ArrayRecord, by a TFDS builder of our own, and read back in any order.

A prepared set is a directory named by what it was made from: the bytes of the source, the kind of record,
what happened to bad rows, the version of this format. It is written beside its place and moved there whole,
so a process that dies leaves nothing that could be taken for one, and of processes that race one wins.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prefjax.checks import refuse
from prefjax.data.columns import Fault
from prefjax.data.jsonl import jsonl_table
from prefjax.data.parquet import parquet_table
from prefjax.data.records import Identity, Kind, Records, refuse_row
from prefjax.data.tables import Bad, Table, check_bad, require_rows, sha256_of
from prefjax.data.tfds_source import is_tfds_directory, tfds_table

FORMAT = 2  # Part of every key: raise it when what is written changes, and old sets are made again.
MANIFEST = "prefjax.json"
SPLIT = "rows"


def prepare(
    source: str | os.PathLike[str],
    kind: Kind,
    *,
    bad: Bad = "error",
    cache: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Records:
    """Prepares a source, or finds it prepared, and opens it for random access.

    Args:
      source: a JSON Lines file (also `.gz`); a Parquet file, a directory of Parquet shards, or a pattern that
        matches them; `tfds:NAME[/CONFIG][:VERSION][#SPLIT]`, or a directory that TFDS prepared.
      kind: such as `PREFERENCE`: the columns that each row must have.
      bad: what an unusable row does. "error" stops at the first one, "skip" leaves it out and counts it.
      cache: where prepared sets are kept: `$PREFJAX_CACHE` or `~/.cache/prefjax` unless given.
      progress: whether to show a bar; None shows it on a terminal, for sources of 16 MiB and more.

    Returns: `Records` whose rows are read from disk when asked for, in the order of the source.
    Raises: `InputError` with source and line for the first unusable row (unless skipped); with the source for
      one that is missing, unreadable, empty, or left without a row; and where the cache cannot be written.
    """
    check_bad(bad)
    table = open_table(source)
    before = table.stamp()
    small = sum(size for size, _ in before) < 16 * 2**20
    quiet = (small or not sys.stderr.isatty()) if progress is None else not progress
    sha256 = table.sha256(quiet)
    place = cache_directory(cache) / f"{kind.name}-{_key(table, sha256, kind, bad)[:32]}"
    if (found := _open(place, table.source, kind)) is not None:
        return found

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = _beside(place)
        draft.mkdir()
    except OSError as error:
        refuse(
            f"cache {place.parent}",
            f"it cannot be written ({error.strerror})",
            "a writable directory is expected",
            "Name another one, or set PREFJAX_CACHE.",
        )
    try:
        skipped, rows = _validate(table, kind, bad, quiet)
        _write(draft, table, kind, rows, quiet)
        if before != table.stamp():
            refuse(table.source, "it changed while it was read", "a file at rest is expected", "Run again.")
        files = {str(file.relative_to(draft)): sha256_of(file) for file in _files(draft)}
        identity = Identity(sha256, rows, kind.name)
        manifest = {"identity": identity._asdict(), "skipped": skipped, "files": files}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _move(draft, place, table.source, kind)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    opened = _open(place, table.source, kind)
    if opened is None:
        refuse(
            str(place),
            "what was just prepared does not read back",
            "the bytes that were written are expected",
            "Check the disk, or name another cache.",
        )
    return opened


def open_table(source: str | os.PathLike[str]) -> Table:
    """The table that a source names: by its prefix, its ending, or what a directory holds."""
    source = os.fspath(source)
    if source.startswith("tfds:") or (is_tfds_directory(source) and not os.path.isfile(source)):
        return tfds_table(source)
    return (
        parquet_table(source) if source.endswith(".parquet") or os.path.isdir(source) else jsonl_table(source)
    )


def cache_directory(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where prepared sets are kept: `cache`, else `$PREFJAX_CACHE`, else `~/.cache/prefjax`."""
    return Path(cache or os.environ.get("PREFJAX_CACHE") or Path.home() / ".cache" / "prefjax").expanduser()


class PreparedRows(Sequence):
    """The rows of a prepared set, in the order of the source."""

    def __init__(self, rows: Any):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            # Many at once: the file is read by blocks, in parallel.
            return [self._row(row) for row in self._rows.__getitems__(list(range(len(self))[index]))]
        return self._row(self._rows[range(len(self))[index]])

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]

    def _row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**json.loads(row["row"].decode("utf-8", "surrogatepass")), "line": int(row["line"])}


def _validate(table: Table, kind: Kind, bad: Bad, quiet: bool) -> tuple[dict[str, int], int]:
    # A pass of its own, so that TFDS meets no bad row and an error is ours from first to last.
    skipped: Counter[str] = Counter()
    kept = 0
    for line, row in tqdm(table.rows(kind), desc=f"reading {table.source}", unit=" rows", disable=quiet):
        if isinstance(row, Fault):
            if bad == "error":
                refuse_row(table.source, line, row)
            skipped[row.reason] += 1
        else:
            kept += 1
    require_rows(table.source, kept, skipped, kind)
    return dict(skipped), kept


def _write(directory: Path, table: Table, kind: Kind, rows: int, quiet: bool) -> None:
    # Here, so that `import prefjax.data` does not pay for a builder that reading JSON Lines never needs.
    import tensorflow_datasets as tfds

    # mypy cannot see which class arguments an untyped base takes.
    class PrefjaxRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(f"{FORMAT}.0.0")
        code_path = None  # No checksums of downloads lie beside this file: nothing is downloaded.

        def _info(self):
            # A row is one JSON text, so that every kind fits, and extras of any shape.
            columns = {"row": tfds.features.Text(), "line": tfds.features.Scalar(np.int64)}
            features = tfds.features.FeaturesDict(columns)
            # TFDS shuffles by key unless told not to; file order is the order.
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {SPLIT: self._generate_examples()}

        def _generate_examples(self):
            usable = (row for _, row in table.rows(kind) if not isinstance(row, Fault))
            shown = tqdm(usable, desc="preparing", total=rows, unit=" rows", disable=quiet)
            for number, row in enumerate(shown):
                line = row.pop("line")
                # Extras may hold half a surrogate pair, which JSON can and UTF-8 cannot say.
                text = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
                yield number, {"row": text, "line": line}

    with _hushed(tfds):
        builder = PrefjaxRows(data_dir=str(directory), file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
            )
        )


def _open(place: Path, source: str, kind: Kind) -> Records | None:
    """The prepared set at `place`, or None where there is none that is whole."""
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        identity = Identity(**manifest["identity"])
        files = manifest["files"]
        if any(sha256_of(place / name) != sha256 for name, sha256 in files.items()):
            return None
        (info,) = (name for name in files if name.endswith("dataset_info.json"))
        import tensorflow_datasets as tfds

        with _hushed(tfds):
            rows = tfds.builder_from_directory(str((place / info).parent)).as_data_source(SPLIT)
        if len(rows) != identity.rows:
            return None
        return Records(kind, source, PreparedRows(rows), dict(manifest["skipped"]), identity)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None


def _move(draft: Path, place: Path, source: str, kind: Kind) -> None:
    """Puts the draft in its place, unless another process has put a whole one there meanwhile."""
    for _ in range(8):
        try:
            # Renaming onto a directory that is not empty fails, so nobody overwrites anybody.
            os.rename(draft, place)
            return
        except OSError:
            if _open(place, source, kind) is not None:
                return
            broken = _beside(place)
            broken.mkdir()
            with contextlib.suppress(OSError):  # Another process may have moved it first.
                os.rename(place, broken / "set")
            shutil.rmtree(broken, ignore_errors=True)
    refuse(
        str(place),
        "the prepared set cannot be put there",
        "a place that one can rename to is expected",
        "Remove it, or name another cache.",
    )


def _beside(place: Path) -> Path:
    """A name that nobody else uses, on the same file system, so that it can be renamed to `place`."""
    return place.with_name(f".{place.name}-{uuid.uuid4().hex}")


def _key(table: Table, sha256: str, kind: Kind, bad: Bad) -> str:
    made_from = [FORMAT, table.reader, sha256, kind.name, kind.columns, bad]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())


@contextlib.contextmanager
def _hushed(tfds: Any) -> Iterator[None]:
    """TFDS prints, draws bars and logs about each preparation; we say what there is to say."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    active, verbosity = tqdm_utils._active, logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if active:
            tfds.display_progress_bar(enable=True)
