"""Safetensors files: parts of their tensors read, and tensors written one after another."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from prefjax.checks import refuse, require

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STORED_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


class StoredTensor(NamedTuple):
    """A tensor in a file, of which so far nothing was read."""

    path: Path
    view: Any
    shape: tuple[int, ...]
    dtype: str  # as the file spells it

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of it, by slices with both ends."""
        return self.view[index]


def open_tensors(directory: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    """All tensors of the safetensors files in a directory; `stack` closes the files.

    Raises: InputError where there is no file, or one is missing or not whole.
    """
    tensors = {}
    for path in _weight_files(directory):
        try:
            file = stack.enter_context(safe_open(path, framework="np"))
        except (SafetensorError, OSError) as error:
            refuse(
                str(path),
                f"not readable ({error})",
                "it is a whole safetensors file",
                "Fetch it again; it may be cut off.",
            )
        for name in file.keys():  # noqa: SIM118  (a file, not a dict)
            view = file.get_slice(name)
            tensors[name] = StoredTensor(path, view, tuple(view.get_shape()), view.get_dtype())
    return tensors


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    require(
        index.is_file(),
        str(directory),
        f"neither {SINGLE} nor {INDEX}",
        "the weights are in safetensors files",
        "Check the directory; save with safe_serialization if it holds pickled weights.",
    )
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        paths = [directory / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        refuse(
            str(index),
            f"not an index ({error!r})",
            'it has a "weight_map" of names to files',
            "Fetch it again.",
        )
    for path in paths:
        require(path.is_file(), str(path), "no such file", f"{INDEX} names it", "Fetch it again.")
    return paths


def write_tensors(path: Path, tensors: Mapping[str, Any], *, dtype: str | None = None) -> None:
    """Writes one safetensors file, with one tensor at a time in memory.

    The file is the length of its header in 8 bytes, little-endian, the header, JSON, and the tensors.

    Args:
      path: of the file.
      tensors: what numpy makes arrays of, with `shape` and `dtype`.
      dtype: to store floating point numbers in; None keeps their own.
    """
    spelled = {name: code for code, name in STORED_DTYPES.items()}
    # The widest numbers first, so that each tensor begins at a multiple of its own.
    names = sorted(tensors, key=lambda name: -stored_dtype(tensors[name], dtype).itemsize)
    # transformers refuses files that do not say which framework laid them out; "pt" is the one for all.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + stored_bytes(tensors[name], dtype)
        code = spelled[stored_dtype(tensors[name], dtype).name]
        shape = [int(n) for n in tensors[name].shape]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            array = np.asarray(tensors[name]).astype(stored_dtype(tensors[name], dtype), copy=False)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def stored_dtype(tensor: Any, dtype: str | None) -> np.dtype:
    return jnp.dtype(tensor.dtype if dtype is None else dtype)


def stored_bytes(tensor: Any, dtype: str | None) -> int:
    return int(np.prod(tensor.shape)) * stored_dtype(tensor, dtype).itemsize
