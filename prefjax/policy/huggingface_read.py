"""A decoder from a Hugging Face directory.

Parameters bear the names that the files use, so nothing is renamed or transposed on the way.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree
from safetensors import SafetensorError, safe_open

from prefjax.checks import refuse, require
from prefjax.policy.config_json import read_config
from prefjax.policy.functional import Policy, abstract

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
SCORE = "score.weight"
BUFFERS = "rotary_emb.inv_freq"  # stored by some old versions; it follows from rope_theta
STORED_DTYPES = ("F32", "BF16", "F16", "F64")


def load_huggingface(
    directory: str | Path,
    *,
    dtype: str = "float32",
    num_scores: int | None = None,
    score_key: Key[Array, ""] | None = None,
    shardings: PyTree | None = None,
) -> tuple[Policy, PyTree]:
    """Reads `config.json` and one or several safetensors files.

    Args:
      directory: of a LlamaForCausalLM or a LlamaForSequenceClassification.
      dtype: in which the policy multiplies matrices. Parameters come out float32, however they are stored.
      num_scores: None takes the model as it is. k on a language model drops its output head for one of k
        scores, as a reward model starts; on a classifier it must be the number of its labels.
      score_key: for that new head: normal with the file's `initializer_range` for its standard deviation.
        None makes it 0: every preference is 1/2 and the Bradley-Terry loss log 2 before the first step.
      shardings: where to put each parameter, a tree like the parameters or one sharding for all. Tensors are
        read and placed one at a time. None puts everything on the default device.

    Returns: the policy and its parameters.
    Raises: InputError, naming the file and the tensor, for what is missing, extra, misshaped, truncated, or
      of an architecture that is not supported.
    """
    directory = Path(directory)
    stored = read_config(directory)
    policy, expected = abstract(read_config(directory, num_scores=num_scores, dtype=dtype))
    new_head = policy.config.num_scores > 0 and stored.num_scores == 0
    tied = stored.tie_word_embeddings and stored.num_scores == 0
    shapes = by_name(expected)
    place = by_name(shardings) if isinstance(shardings, dict) else dict.fromkeys(shapes, shardings)

    files = _weight_files(directory)
    where = {name: path for path, names in files.items() for name in names}
    wanted = {name: leaf for name, leaf in shapes.items() if not (new_head and name == SCORE)}
    for name, leaf in wanted.items():
        require(
            name in where,
            str(directory),
            f'no file has the tensor "{name}"',
            f"config.json asks for it, of shape {list(leaf.shape)}",
            "Use the weights that belong to this config.json.",
        )
    for name, path in where.items():
        require(
            name in wanted or (name == HEAD and (new_head or tied)) or name.endswith(BUFFERS),
            str(path),
            f'it has a tensor "{name}"',
            "config.json asks for none of that name",
            "Use the weights that belong to this config.json.",
        )

    loaded: dict[str, Any] = {}
    for path, names in files.items():
        shapes_here = {name: wanted[name].shape for name in names if name in wanted}
        for name, array in _read(path, shapes_here):
            loaded[name] = _put(array, place[name])
    if tied and not new_head and HEAD in where:
        _require_equal(where[HEAD], HEAD, loaded[EMBEDDINGS], EMBEDDINGS)
    if new_head:
        shape, stddev = shapes[SCORE].shape, policy.config.initializer_range
        head = jnp.zeros(shape) if score_key is None else stddev * jax.random.normal(score_key, shape)
        loaded[SCORE] = _put(head, place[SCORE])
    return policy, jax.tree_util.tree_map_with_path(lambda path, _: loaded[_name(path)], expected)


def _name(path: tuple) -> str:
    return ".".join(str(key.key) for key in path)


def by_name(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree under the names that files have for them."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _put(array: Any, place: Any) -> Array:
    return jnp.asarray(array) if place is None else jax.device_put(array, place)


def _weight_files(directory: Path) -> dict[Path, list[str]]:
    """The safetensors files of a directory, and the tensors in each."""
    index = directory / INDEX
    if (directory / SINGLE).is_file():
        paths = [directory / SINGLE]
    elif index.is_file():
        try:
            paths = sorted(
                {directory / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()}
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            refuse(
                str(index),
                f"not an index ({error!r})",
                'it has a "weight_map" of names to files',
                "Fetch it again.",
            )
    else:
        refuse(
            str(directory),
            f"neither {SINGLE} nor {INDEX}",
            "the weights are in safetensors files",
            "Check the directory; save with safe_serialization if it holds pickled weights.",
        )
    files = {}
    for path in paths:
        require(path.is_file(), str(path), "no such file", f"{INDEX} names it", "Fetch it again.")
        with _open(path) as file:
            files[path] = list(file.keys())
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        refuse(
            str(path),
            f"not readable ({error})",
            "it is a whole safetensors file",
            "Fetch it again; it may be cut off.",
        )


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one file, one at a time, as float32."""
    with _open(path) as file:
        for name, shape in shapes.items():
            view = file.get_slice(name)
            require(
                tuple(view.get_shape()) == shape,
                str(path),
                f'tensor "{name}" has shape {list(view.get_shape())}',
                f"config.json makes it {list(shape)}",
                "Use the weights that belong to this config.json.",
            )
            require(
                view.get_dtype() in STORED_DTYPES,
                str(path),
                f'tensor "{name}" is {view.get_dtype()}',
                f"weights are one of {', '.join(STORED_DTYPES)}",
                "Use the unquantised model.",
            )
            yield name, file.get_tensor(name).astype(np.float32)


def _require_equal(path: Path, name: str, expected: Array, expected_name: str) -> None:
    [(_, array)] = _read(path, {name: expected.shape})
    require(
        bool(np.array_equal(array, np.asarray(expected))),
        str(path),
        f'"{name}" differs from "{expected_name}"',
        "config.json ties them (tie_word_embeddings), so they are one",
        "Set tie_word_embeddings to false if the head is its own.",
    )
