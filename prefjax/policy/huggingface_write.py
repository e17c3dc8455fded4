"""A decoder into a Hugging Face directory, where transformers finds it."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from prefjax.checks import require
from prefjax.policy.config import DTYPES
from prefjax.policy.config_json_write import config_to_huggingface
from prefjax.policy.functional import Policy, abstract
from prefjax.policy.huggingface_read import EMBEDDINGS, by_name
from prefjax.policy.tensor_files import INDEX, SINGLE, stored_bytes, stored_dtype, write_tensors

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def save_huggingface(
    directory: str | Path,
    policy: Policy,
    params: PyTree,
    *,
    tokenizer: Any = None,
    source_dir: str | Path | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a directory that transformers loads: `config.json`, safetensors, and a tokeniser if given.

    Everything is written beside the directory first and then moved, so each file is whole or not there, and a
    directory that did not exist appears complete. In one that did, other files stay; weights that were there
    under other names go.

    Args:
      directory: made, with its parents, where it does not exist.
      policy, params: the decoder, without adapters. Tensors are fetched and written one at a time.
      tokenizer: of transformers; its files are written too.
      source_dir: instead of a tokeniser, the directory to copy its files and `generation_config.json` from.
      dtype: to store the weights in; None keeps that of each parameter.
      max_shard_bytes: weights beyond it are spread over several files and an index.

    Raises: InputError where the parameters are not those of the policy, or are spread over other processes, or
      the policy has adapters, or something else that the files of its family cannot say.
    """
    directory = Path(directory)
    require(
        dtype is None or dtype in DTYPES,
        "save_huggingface",
        f"dtype is {dtype!r}",
        f"one of {', '.join(DTYPES)}, or None",
        "Change dtype.",
    )
    require(
        policy.config.lora is None,
        "save_huggingface",
        "a policy with adapters",
        "these files hold plain weights",
        "Merge the adapters first, or write them by themselves.",
    )
    tensors = by_name(params)
    _require_params(tensors, by_name(abstract(policy.config)[1]))
    stored = str(stored_dtype(tensors[EMBEDDINGS], dtype))
    fields = config_to_huggingface(policy.config, dtype=stored)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write_weights(staging, tensors, dtype, max_shard_bytes)
        if source_dir is not None:
            for name in (*TOKENIZER_FILES, GENERATION):
                if (Path(source_dir) / name).is_file():
                    shutil.copyfile(Path(source_dir) / name, staging / name)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(staging))
        _write_json(staging / "config.json", fields)
        if policy.config.num_scores == 0 and not (staging / GENERATION).exists():
            tokens = {name: fields[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
            _write_json(staging / GENERATION, {k: v for k, v in tokens.items() if v is not None})
        _open_to_others(staging)
        _move(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_params(tensors: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        got = list(tensors[name].shape) if name in tensors else "nothing"
        want = list(expected[name].shape) if name in expected else "nothing"
        require(
            got == want,
            f"parameter {name}",
            f"got {got}",
            f"the policy's configuration makes it {want}",
            "Save parameters with their own policy.",
        )
    for name, leaf in tensors.items():
        require(
            getattr(getattr(leaf, "stacked", leaf), "is_fully_addressable", True),
            f"parameter {name}",
            "spread over devices of other processes",
            "the process that writes holds all of it",
            "Gather the parameters first, and save from one process.",
        )


def _write_weights(directory: Path, tensors: dict[str, Any], dtype: str | None, max_shard_bytes: int) -> None:
    shards: list[list[str]] = [[]]
    size = total = 0
    for name, leaf in tensors.items():
        more = stored_bytes(leaf, dtype)
        if shards[-1] and size + more > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size, total = size + more, total + more
    weight_map = {}
    for i, names in enumerate(shards, start=1):
        file = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file))
        write_tensors(directory / file, {name: tensors[name] for name in names}, dtype=dtype)
    if len(shards) > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _open_to_others(directory: Path) -> None:
    """mkdtemp and safetensors keep others out; give what the caller's umask would have given."""
    umask = os.umask(0)
    os.umask(umask)
    for path in directory.iterdir():
        path.chmod(0o666 & ~umask)
    directory.chmod(0o777 & ~umask)


def _move(staging: Path, directory: Path) -> None:
    if not directory.exists():
        os.replace(staging, directory)
        return
    new = {path.name for path in staging.iterdir()}
    # Old weights go first: the loader prefers a single file to an index, and must find neither in part.
    for path in directory.glob("model*.safetensors*"):
        if path.name not in new:
            path.unlink()
    for name in sorted(new):
        os.replace(staging / name, directory / name)
