"""TFDS sets in: those that are prepared on this machine, by name or by directory, read without TensorFlow."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from prefjax.checks import refuse
from prefjax.data.tables import Table, plain

NAME = re.compile(r"tfds:(?P<name>\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?)(#(?P<split>.+))?")
FORM = '"tfds:NAME[/CONFIG][:VERSION][#SPLIT]" is expected'
BLOCK = 256  # Rows that are asked for at a time.


def tfds_table(source: str) -> Table:
    """The rows of one split, "train" unless `#SPLIT` says another; any split that TFDS can name, as `train[:10%]`.

    A name is looked for where TFDS keeps its sets, in `$TFDS_DATA_DIR` where that is set.
    """
    _, _, split = source.partition("#")
    split = split or "train"
    builder = _builder(source)
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        got = f'no split "{split}" ({str(error).splitlines()[0]})'
        refuse(source, got, f"one of {', '.join(builder.info.splits)} is expected", "Name it: #SPLIT.")
    try:
        rows = builder.as_data_source(split)
    except NotImplementedError:  # TFDS says so of file formats that it cannot read at random places
        got = f"it is prepared in the format {builder.info.file_format.value}"
        refuse(source, got, "rows that can be read without TensorFlow are expected", _how(builder.name))
    described = [Path(str(builder.data_dir)) / name for name in ("dataset_info.json", "features.json")]
    files = tuple(str(file) for file in [*described, *info.filepaths])
    if missing := [file for file in files if not os.path.exists(file)]:
        _refuse_damage(source, f"{missing[0]} is not there")
    part = f"{builder.info.full_name}#{split}"
    return Table(source, "tfds", part, files, partial(_records, source, rows, builder.info.features))


def is_tfds_directory(source: str) -> bool:
    """Whether a directory, named with or without `#SPLIT`, is one that TFDS prepared."""
    return os.path.exists(os.path.join(source.partition("#")[0], "features.json"))


def _builder(source: str) -> Any:
    """What TFDS reads the set with."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import constants, read_only_builder, registered
    except ImportError:
        todo = 'Run `pip install "prefjax[train]"`.'
        refuse(source, "tensorflow-datasets is not installed", "TFDS sets need it", todo)
    place = os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or constants.DATA_DIR)
    match = NAME.fullmatch(source)
    if source.startswith("tfds:") and match is None:
        refuse(source, "this is no name of a TFDS set", FORM, "Mend the name.")
    try:
        if match is None:
            return tfds.builder_from_directory(source.partition("#")[0])
        return read_only_builder.builder_from_files(match["name"], data_dir=place)
    except registered.DatasetNotFoundError:
        name = match["name"] if match else ""
        what = "a set that was prepared there is expected; nothing is downloaded here"
        refuse(source, f"{name} is not in {place}", what, f"{_how(name)} Or set TFDS_DATA_DIR.")
    except Exception as error:  # whatever a damaged description makes TFDS and protobuf raise
        _refuse_damage(source, error)


def _refuse_damage(source: str, error: object) -> NoReturn:
    said = str(error).splitlines()[0][:200]
    refuse(source, f"it cannot be read ({said})", "a set as TFDS wrote it is expected", "Prepare it again.")


def _how(name: str) -> str:
    return (
        'Prepare it, as with `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"`."
    )


def _records(source: str, rows: Any, features: Any) -> Iterator[tuple[int, Any]]:
    for start in range(0, len(rows), BLOCK):
        try:
            block = rows.__getitems__(list(range(start, min(start + BLOCK, len(rows)))))
        except (RuntimeError, OSError, ValueError) as error:
            _refuse_damage(source, error)
        for number, row in enumerate(block, start + 1):
            yield number, plain(_in_rows(row, features))


def _in_rows(value: Any, feature: Any) -> Any:
    """TFDS hands a sequence of objects back as an object of sequences; messages are a sequence of objects."""
    import tensorflow_datasets as tfds

    inner = getattr(feature, "feature", None)
    if isinstance(feature, tfds.features.Dataset):
        return [_in_rows(row, inner) for row in value]
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(value, Mapping):
            return [
                _in_rows(dict(zip(value, row, strict=True)), inner)
                for row in zip(*value.values(), strict=True)
            ]
        return [_in_rows(row, inner) for row in value]
    if isinstance(value, Mapping):
        return {name: _in_rows(value[name], feature[name]) for name in value}
    return value
