"""Adapters in files as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open

from prefjax.checks import refuse, require
from prefjax.policy.config import LoraConfig
from prefjax.policy.functional import Policy, abstract
from prefjax.policy.huggingface_read import OneBlock
from prefjax.policy.huggingface_write import TOKENIZER_FILES
from prefjax.policy.lora import LORA_TARGETS, join, split_adapters
from prefjax.policy.tensor_files import write_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG, WEIGHTS)
PREFIX = "base_model.model."
ADAPTED = re.compile(rf"model\.layers\.(\d+)\.(?:self_attn|mlp)\.({'|'.join(LORA_TARGETS)})\.lora_A\.weight")
# What changes the computation of an adapter and is not done here, with the one value that means "off".
VARIANTS: dict[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "use_qalora": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "use_bdlora": None,
    "velora_config": None,
}
# Starts that change the base: what was saved belongs to that other base.
CHANGED_BASES = ("pissa", "corda", "olora", "loftq", "lora_ga")


def save_peft(
    directory: str | Path,
    policy: Policy,
    params: PyTree,
    *,
    base: str | Path = "",
    source_dir: str | Path | None = None,
) -> None:
    """Writes the adapters of a policy, and its score head if it has one, where PEFT finds them.

    Args:
      directory: made where it does not exist. Each file appears whole or not at all.
      policy, params: with adapters. Only they are written.
      base: the model that they belong to, as PEFT's `base_model_name_or_path`.
      source_dir: where to copy a tokeniser's files from.
    """
    lora = policy.config.lora
    if lora is None:
        refuse("save_peft", "a policy without adapters", "one from with_adapters", "Use save_huggingface.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    head = ("score",) if policy.config.num_scores else ()
    tensors = {
        PREFIX + name: array
        for name, array in _by_name(split_adapters(params, also=head)[0], _layers(policy))
    }
    fields = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(lora.targets),
        "layers_to_transform": sorted(lora.layers) or None,
        "modules_to_save": list(head) or None,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_rslora": False,
        **{name: off for name, off in VARIANTS.items() if off is not None},
    }
    fresh = {name: directory / f".{name}.{os.getpid()}" for name in (WEIGHTS, CONFIG)}
    write_tensors(fresh[WEIGHTS], tensors)
    fresh[CONFIG].write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, path in fresh.items():
        path.replace(directory / name)
    for name in TOKENIZER_FILES if source_dir is not None else ():
        if (Path(source_dir or ".") / name).is_file():
            shutil.copyfile(Path(source_dir or ".") / name, directory / name)


def load_peft(directory: str | Path, policy: Policy, params: PyTree) -> tuple[Policy, PyTree]:
    """Puts the adapters of a directory into a base without any.

    Which layers they belong to is read off the tensors' names: the configuration may say it by names of modules, whole
    or in part, by an expression, or by what is left out.

    Raises: InputError, naming the file, for an adapter that is not LoRA, of a variant that is not supported, or that
      does not fit the base.
    """
    directory = Path(directory)
    path = directory / WEIGHTS
    rank, alpha = read_peft_config(directory)
    try:
        with safe_open(path, framework="np") as file:
            stored = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        refuse(f"{path}", f"not readable ({error})", "the adapter's weights", "Save or fetch it again.")
    lora = _adapted(path, stored, rank, alpha, policy.config.num_layers)
    adapted, shapes = abstract(replace(policy.config, lora=lora))
    head = ("score",) if policy.config.num_scores else ()
    wanted, _ = split_adapters(shapes, also=head)
    layers = _layers(adapted)
    expected = dict(_by_name(wanted, layers))
    for name in sorted(expected.keys() | stored.keys()):
        optional = name == "score.weight"
        got = list(stored[name].shape) if name in stored else "nothing"
        want = list(expected[name].shape) if name in expected else "nothing"
        require(
            got == want or (optional and got == "nothing"), f"{path}", f'"{name}" is {got}', f"{want}",
            "Use the adapter with the model that it was trained on; adapters elsewhere than on the same linear layers "
            "of some blocks are not supported.",
        )  # fmt: skip

    def filled(part: Any, name: tuple[str, ...]) -> Any:
        if isinstance(part, dict):
            return {key: filled(inner, (*name, key)) for key, inner in part.items()}
        if "layers" not in name:
            found = stored.get(".".join(name))
            return jnp.asarray(found if found is not None else params["score"]["weight"], jnp.float32)
        at = name.index("layers") + 1
        array = np.zeros(part.shape, np.float32)
        for layer in layers:
            array[layer] = stored[".".join([*name[:at], str(layer), *name[at:]])]
        return jnp.asarray(array)

    _, base = split_adapters(params, also=head)
    return adapted, join(filled(wanted, ()), base)


def read_peft_config(directory: str | Path) -> tuple[int, float]:
    """The rank and alpha that `adapter_config.json` says, once nothing else there changes the computation."""
    path = Path(directory) / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind = fields["peft_type"]
        rank, alpha = int(fields["r"]), float(fields["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(
            f"{path}",
            f"not an adapter's configuration ({error!r})",
            "PEFT's file of a LoRA adapter",
            "Save it again with PEFT.",
        )
    require(
        kind == "LORA", f"{path}", f"peft_type {kind!r}", "LORA", "Other kinds of adapter are not supported."
    )
    for name, off in VARIANTS.items():
        require(
            fields.get(name, off) in (off, None), f"{path}", f"{name} is {fields.get(name)!r}", f"{off!r}",
            "This variant of LoRA is not supported; merge the adapter first.",
        )  # fmt: skip
    start = fields.get("init_lora_weights")
    require(
        not (isinstance(start, str) and start.lower().startswith(CHANGED_BASES)),
        f"{path}", f"init_lora_weights is {start!r}", "a start that leaves the base as it is",
        "Convert it with PEFT (path_initial_model_for_weight_conversion), or merge the adapter first.",
    )  # fmt: skip
    # Scaled by alpha / √rank there, by alpha / rank here.
    return rank, alpha * rank**0.5 if fields.get("use_rslora") else alpha


def _adapted(path: Path, stored: dict[str, Any], rank: int, alpha: float, num_layers: int) -> LoraConfig:
    """Which layers the tensors of a file belong to."""
    found = [match.groups() for match in map(ADAPTED.fullmatch, stored) if match]
    require(
        bool(found),
        f"{path}",
        f"tensors {', '.join(sorted(stored)[:3])}",
        f"adapters on some of {', '.join(LORA_TARGETS)}",
        "Adapters elsewhere are not supported.",
    )
    layers = sorted({int(layer) for layer, _ in found})
    require(
        layers[-1] < num_layers,
        f"{path}",
        f"adapters of block {layers[-1]}",
        f"blocks 0 to {num_layers - 1}",
        "Use the adapter with the model that it was trained on.",
    )
    targets = tuple(target for target in LORA_TARGETS if any(target == name for _, name in found))
    return LoraConfig(rank, alpha, targets, () if len(layers) == num_layers else tuple(layers))


def _layers(policy: Policy) -> tuple[int, ...]:
    lora = policy.config.lora
    return tuple(lora.layers) if lora and lora.layers else tuple(range(policy.config.num_layers))


def _by_name(part: Any, layers: tuple[int, ...], name: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """File names and tensors: a stack [L, …] is one tensor for each block that has the adapter."""
    if isinstance(part, dict):
        for key, inner in part.items():
            yield from _by_name(inner, layers, (*name, key))
    elif "layers" not in name:
        yield ".".join(name), part
    else:
        at = name.index("layers") + 1
        for layer in layers:
            yield ".".join([*name[:at], str(layer), *name[at:]]), OneBlock(part, layer)
