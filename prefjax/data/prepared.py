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
from prefjax.data.jsonl import Bad, check_readable, parse_jsonl, require_rows
from prefjax.data.records import Fault, Identity, Kind, Records, refuse_row

FORMAT = 1  # Part of every key: raise it when what is written changes, and old sets are made again.
MANIFEST = "prefjax.json"
SPLIT = "rows"


def prepare_jsonl(
    path: str | os.PathLike[str],
    kind: Kind,
    *,
    bad: Bad = "error",
    cache: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Records:
    """Prepares a JSON Lines file, or finds it prepared, and opens it for random access.

    Args:
      path, kind, bad: as for `read_jsonl`.
      cache: where prepared sets are kept: `$PREFJAX_CACHE` or `~/.cache/prefjax` unless given.
      progress: whether to show a bar; None shows it on a terminal, for files of 16 MiB and more.

    Returns: `Records` whose rows are read from disk when asked for, in file order, with their line numbers.
    Raises: `InputError` as `read_jsonl`, and where the cache cannot be written.
    """
    source = check_readable(path, bad)
    stat = os.stat(source)
    small = stat.st_size < 16 * 2**20
    quiet = (small or not sys.stderr.isatty()) if progress is None else not progress
    before = (stat.st_size, stat.st_mtime_ns)
    key = _key(_sha256(source, quiet), kind, bad)
    place = cache_directory(cache) / f"{kind.name}-{key[:32]}"
    if (found := _open(place, source, kind)) is not None:
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
        skipped, identity = _validate(source, kind, bad, quiet)
        _write(draft, source, kind, identity.rows, quiet)
        stat = os.stat(source)
        if before != (stat.st_size, stat.st_mtime_ns):
            refuse(source, "it changed while it was read", "a file at rest is expected", "Run again.")
        files = {str(file.relative_to(draft)): _sha256(file) for file in _files(draft)}
        manifest = {"identity": identity._asdict(), "skipped": skipped, "files": files}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _move(draft, place, source, kind)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    opened = _open(place, source, kind)
    if opened is None:
        refuse(
            str(place),
            "what was just prepared does not read back",
            "the bytes that were written are expected",
            "Check the disk, or name another cache.",
        )
    return opened


def cache_directory(cache: str | os.PathLike[str] | None = None) -> Path:
    """Where prepared sets are kept: `cache`, else `$PREFJAX_CACHE`, else `~/.cache/prefjax`."""
    return Path(cache or os.environ.get("PREFJAX_CACHE") or Path.home() / ".cache" / "prefjax").expanduser()


class PreparedRows(Sequence):
    """The rows of a prepared set as text; TFDS hands them back as bytes, in an order of its own columns."""

    def __init__(self, source: Any, kind: Kind):
        self._source, self._kind = source, kind

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        if isinstance(index, slice):
            # Many at once: the file is read by blocks, in parallel.
            return [self._row(row) for row in self._source.__getitems__(list(range(len(self))[index]))]
        return self._row(self._source[range(len(self))[index]])

    def __iter__(self) -> Iterator[Mapping[str, str | int]]:
        for start in range(0, len(self), 1024):
            yield from self[start : start + 1024]

    def _row(self, row: Mapping[str, Any]) -> Mapping[str, str | int]:
        return {**{name: row[name].decode() for name in self._kind.columns}, "line": int(row["line"])}


def _validate(source: str, kind: Kind, bad: Bad, quiet: bool) -> tuple[dict[str, int], Identity]:
    # A pass of its own, so that TFDS meets no bad row and an error is ours from first to last.
    skipped: Counter[str] = Counter()
    digest, kept = hashlib.sha256(), 0
    for line, row in tqdm(
        parse_jsonl(source, kind, digest), desc=f"reading {source}", unit=" rows", disable=quiet
    ):
        if isinstance(row, Fault):
            if bad == "error":
                refuse_row(source, line, row)
            skipped[row.reason] += 1
        else:
            kept += 1
    require_rows(source, kept, skipped, kind)
    return dict(skipped), Identity(digest.hexdigest(), kept, kind.name)


def _write(directory: Path, source: str, kind: Kind, rows: int, quiet: bool) -> None:
    # Here, so that `import prefjax.data` does not pay for a builder that reading JSON Lines never needs.
    import tensorflow_datasets as tfds

    # mypy cannot see which class arguments an untyped base takes.
    class PrefjaxRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(f"{FORMAT}.0.0")
        code_path = None  # No checksums of downloads lie beside this file: nothing is downloaded.

        def _info(self):
            text = {name: tfds.features.Text() for name in kind.columns}
            features = tfds.features.FeaturesDict({**text, "line": tfds.features.Scalar(np.int64)})
            # TFDS shuffles by key unless told not to; file order is the order.
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {SPLIT: self._generate_examples()}

        def _generate_examples(self):
            usable = ((n, row) for n, row in parse_jsonl(source, kind) if not isinstance(row, Fault))
            for line, row in tqdm(usable, desc="preparing", total=rows, unit=" rows", disable=quiet):
                yield line, {**row, "line": line}

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
        if any(_sha256(place / name) != sha256 for name, sha256 in files.items()):
            return None
        (info,) = (name for name in files if name.endswith("dataset_info.json"))
        import tensorflow_datasets as tfds

        with _hushed(tfds):
            rows = tfds.builder_from_directory(str((place / info).parent)).as_data_source(SPLIT)
        if len(rows) != identity.rows:
            return None
        return Records(kind, source, PreparedRows(rows, kind), dict(manifest["skipped"]), identity)
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


def _key(sha256: str, kind: Kind, bad: Bad) -> str:
    return hashlib.sha256(json.dumps([FORMAT, sha256, kind.name, kind.columns, bad]).encode()).hexdigest()


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())


def _sha256(path: str | Path, quiet: bool = True) -> str:
    digest = hashlib.sha256()
    size = os.stat(path).st_size
    with open(path, "rb") as file, tqdm(
        desc=f"hashing {path}", total=size, unit="B", unit_scale=True, disable=quiet
    ) as bar:  # fmt: skip
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


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
