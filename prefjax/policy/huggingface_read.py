"""A decoder from a Hugging Face directory.

Parameters bear the names that the files use, so nothing is transposed on the way; but the blocks, which files
keep apart, are one array a parameter here: `model.layers.{i}.mlp.up_proj.weight` is `up_proj.weight[i]`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from prefjax.checks import require
from prefjax.policy.config import DTYPES, DecoderConfig
from prefjax.policy.config_json import read_config
from prefjax.policy.functional import Policy, abstract
from prefjax.policy.tensor_files import STORED_DTYPES, StoredTensor, open_tensors

HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"
SCORE = "score.weight"
BUFFERS = "rotary_emb.inv_freq"  # stored by some old versions; it follows from rope_theta
# Of Gemma 3 with pictures, in the order of transformers' versions: what the decoder is called, and what is not it.
PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
PICTURES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
ROWS = 4096  # compared at a time


@dataclass(frozen=True)
class OneBlock:
    """One block's part of a stacked parameter, taken out when numpy asks for it."""

    stacked: Any
    block: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stacked.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.stacked.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if isinstance(self.stacked, jax.Array):
            return np.asarray(_one_of(self.stacked, self.block), dtype)
        return np.asarray(self.stacked[self.block], dtype)


@jax.jit
def _one_of(stacked, block):  # traced, so that one program serves all blocks
    return jax.lax.dynamic_index_in_dim(stacked, block, keepdims=False)


def load_huggingface(
    directory: str | Path,
    *,
    dtype: str = "float32",
    param_dtype: str = "float32",
    num_scores: int | None = None,
    score_key: Key[Array, ""] | None = None,
    shardings: PyTree | None = None,
) -> tuple[Policy, PyTree]:
    """Reads `config.json` and one or several safetensors files.

    Args:
      directory: of a causal language model or a sequence classifier of a supported family.
      dtype: in which the policy multiplies matrices.
      param_dtype: of the parameters, however they are stored. "bfloat16" halves a model that stays as it is.
      num_scores: None takes the model as it is. k on a language model drops its output head for one of k
        scores, as a reward model starts; on a classifier it must be the number of its labels.
      score_key: for that new head: normal with the file's `initializer_range` for its standard deviation.
        None makes it 0: every preference is 1/2 and the Bradley-Terry loss log 2 before the first step.
      shardings: where each parameter lives, a tree like the parameters or one sharding for all. A process then
        reads those parts of the files that its own devices hold, one parameter at a time. None puts
        everything on the default device.

    Returns: the policy and its parameters, those of blocks stacked, [L, …].
    Raises: InputError, naming the file and the tensor, for what is missing, extra, misshaped, truncated, or
      of an architecture that is not supported.
    """
    directory = Path(directory)
    require(
        param_dtype in DTYPES,
        "load_huggingface",
        f"param_dtype is {param_dtype!r}",
        f"one of {', '.join(DTYPES)}",
        "Change param_dtype.",
    )
    stored = read_config(directory)
    policy, expected = abstract(read_config(directory, num_scores=num_scores, dtype=dtype))
    new_head = policy.config.num_scores > 0 and stored.num_scores == 0
    if not isinstance(shardings, dict):
        one = shardings
        shardings = jax.tree.map(lambda _: one, expected)

    with ExitStack() as stack:
        tensors = {_ours(name): tensor for name, tensor in open_tensors(directory, stack).items()}
        wanted = by_name(expected)
        if new_head:
            del wanted[SCORE]
        _require_fitting(directory, stored, wanted, tensors, new_head)

        def read(path, leaf, place):
            name = _name(path)
            if new_head and name == SCORE:
                return _placed(
                    _new_head(policy.config, score_key).astype(jnp.dtype(param_dtype)).__getitem__,
                    leaf,
                    place,
                )
            parts = [tensors[of_block] for of_block in _names(name, leaf)]
            return _placed(_reader(parts, leaf.shape, name in tensors, param_dtype), leaf, place)

        return policy, jax.tree_util.tree_map_with_path(read, expected, shardings)


def by_name(tree: PyTree) -> dict[str, Any]:
    """The parameters of a tree under the names that files have for them, each block by itself."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _name(path)
        for i, of_block in enumerate(_names(name, leaf)):
            named[of_block] = leaf if of_block == name else OneBlock(leaf, i)
    return named


def _name(path: tuple) -> str:
    return ".".join(str(key.key) for key in path)


def _names(name: str, leaf: Any) -> list[str]:
    """What files call a parameter: one name, or one for each block."""
    before, stacked, after = name.partition("model.layers.")
    return [f"{before}{stacked}{i}.{after}" for i in range(leaf.shape[0])] if stacked else [name]


def _ours(name: str) -> str:
    for theirs, ours in PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _require_fitting(
    directory: Path,
    stored: DecoderConfig,
    wanted: dict[str, Any],
    tensors: dict[str, StoredTensor],
    new_head: bool,
) -> None:
    """Every parameter has its tensor and every tensor its parameter, before anything is read."""
    tied = stored.tie_word_embeddings and stored.num_scores == 0
    for name, leaf in wanted.items():
        require(
            name in tensors,
            str(directory),
            f'no file has the tensor "{name}"',
            f"config.json asks for it, of shape {list(leaf.shape)}",
            "Use the weights that belong to this config.json.",
        )
        tensor = tensors[name]
        require(
            tensor.shape == leaf.shape,
            str(tensor.path),
            f'tensor "{name}" has shape {list(tensor.shape)}',
            f"config.json makes it {list(leaf.shape)}",
            "Use the weights that belong to this config.json.",
        )
        require(
            tensor.dtype in STORED_DTYPES,
            str(tensor.path),
            f'tensor "{name}" is {tensor.dtype}',
            f"weights are one of {', '.join(STORED_DTYPES)}",
            "Use the unquantised model.",
        )
    for name, tensor in tensors.items():
        left_behind = name.endswith(BUFFERS) or (stored.family == "gemma3_text" and name.startswith(PICTURES))
        require(
            name in wanted or (name == HEAD and (new_head or tied)) or left_behind,
            str(tensor.path),
            f'it has a tensor "{name}"',
            "config.json asks for none of that name",
            "Use the weights that belong to this config.json.",
        )
    if tied and not new_head and HEAD in tensors:
        head, embeddings = tensors[HEAD], tensors[EMBEDDINGS]
        same = head.shape == embeddings.shape and all(
            np.array_equal(a, b) for a, b in zip(_rows(head), _rows(embeddings), strict=True)
        )
        require(
            same,
            str(head.path),
            f'"{HEAD}" differs from "{EMBEDDINGS}"',
            "config.json ties them (tie_word_embeddings), so they are one",
            "Set tie_word_embeddings to false if the head is its own.",
        )


def _rows(tensor: StoredTensor) -> Iterator[np.ndarray]:
    for start in range(0, tensor.shape[0], ROWS):
        rows = slice(start, min(start + ROWS, tensor.shape[0]))
        yield tensor.read((rows, slice(0, tensor.shape[1])))


def _reader(parts: list[StoredTensor], shape: tuple[int, ...], whole: bool, dtype: str):
    """A function from an index to that part of a parameter, which is one tensor, or one for each block."""

    @cache  # devices that hold the same part have it read once
    def between(*bounds: tuple[int, int]) -> np.ndarray:
        index = tuple(slice(start, stop) for start, stop in bounds)
        if whole:
            return parts[0].read(index).astype(jnp.dtype(dtype), copy=False)
        out = np.empty([stop - start for start, stop in bounds], jnp.dtype(dtype))
        for row, tensor in zip(out, parts[index[0]], strict=True):
            row[...] = tensor.read(index[1:])
        return out

    def part(index: tuple[slice, ...]) -> np.ndarray:
        return between(*(cut.indices(length)[:2] for cut, length in zip(index, shape, strict=True)))

    return part


def _placed(part, leaf: Any, place: Any) -> Array:
    if place is None:
        return jnp.asarray(part((slice(None),) * len(leaf.shape)))
    return jax.make_array_from_callback(leaf.shape, place, part)


def _new_head(config: DecoderConfig, key: Key[Array, ""] | None) -> np.ndarray:
    shape = (config.num_scores, config.hidden_size)
    if key is None:
        return np.zeros(shape, np.float32)
    return np.asarray(config.initializer_range * jax.random.normal(key, shape))
