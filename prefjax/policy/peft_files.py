"""Adapters in files as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from prefjax.checks import refuse, require
from prefjax.policy.config import LoraConfig
from prefjax.policy.functional import Policy, abstract
from prefjax.policy.lora import TARGETS, join, split_adapters

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# What changes the computation of an adapter and is not done here, with the one value that means "off".
VARIANTS = {
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
}


def save_peft(directory: str | Path, policy: Policy, params: PyTree, *, base: str | Path = "") -> None:
    """Writes the adapters of a policy, and its score head if it has one, where PEFT finds them.

    Args:
      directory: made where it does not exist. Each file appears whole or not at all.
      policy, params: with adapters. Only they are written.
      base: the model that they belong to, as PEFT's `base_model_name_or_path`.
    """
    lora = policy.config.lora
    if lora is None:
        refuse("save_peft", "a policy without adapters", "one from with_adapters", "Use save_huggingface.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    head = ("score",) if policy.config.num_scores else ()
    tensors = {
        PREFIX + name: np.ascontiguousarray(array)
        for name, array in _by_name(split_adapters(params, also=head)[0], _layers(policy))
    }
    fields = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if head else "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(lora.targets),
        "layers_to_transform": sorted(lora.layers) or None,
        "modules_to_save": list(head) or None,
        "init_lora_weights": True,
        "inference_mode": True,
        **VARIANTS,
    }
    fresh = {name: directory / f".{name}.{os.getpid()}" for name in (WEIGHTS, CONFIG)}
    save_file(tensors, fresh[WEIGHTS], metadata={"format": "pt"})
    fresh[CONFIG].write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name, path in fresh.items():
        path.replace(directory / name)


def load_peft(directory: str | Path, policy: Policy, params: PyTree) -> tuple[Policy, PyTree]:
    """Puts the adapters of a directory into a base without any.

    Raises: InputError, naming the file, for an adapter that is not LoRA, of a variant that is not supported, or that
      does not fit the base.
    """
    directory = Path(directory)
    lora = read_peft_config(directory, num_layers=policy.config.num_layers)
    config = replace(policy.config, lora=lora)
    adapted, shapes = abstract(config)
    head = ("score",) if config.num_scores else ()
    wanted, _ = split_adapters(shapes, also=head)
    path = directory / WEIGHTS
    try:
        with safe_open(path, framework="np") as file:
            stored = {name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        refuse(f"{path}", f"not readable ({error})", "the adapter's weights", "Save or fetch it again.")
    layers = _layers(adapted)
    expected = dict(_by_name(wanted, layers))
    for name in sorted(expected.keys() | stored.keys()):
        optional = name == "score.weight"
        got = list(stored[name].shape) if name in stored else "nothing"
        want = list(expected[name].shape) if name in expected else "nothing"
        require(
            got == want or (optional and got == "nothing"), f"{path}", f'"{name}" is {got}', f"{want}",
            "Use the adapter with the model that it was trained on.",
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


def read_peft_config(directory: str | Path, *, num_layers: int) -> LoraConfig:
    """What `adapter_config.json` says."""
    path = Path(directory) / CONFIG
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind = fields["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse(
            f"{path}",
            f"not an adapter's configuration ({error!r})",
            "PEFT's file",
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
    targets = fields.get("target_modules")
    if targets == "all-linear":
        targets = list(TARGETS)
    require(
        isinstance(targets, list) and set(targets) <= set(TARGETS), f"{path}", f"target_modules is {targets!r}",
        f"some of {', '.join(TARGETS)}", "Adapters elsewhere are not supported.",
    )  # fmt: skip
    layers = fields.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers or []
    require(
        all(0 <= layer < num_layers for layer in layers), f"{path}", f"layers_to_transform is {layers}",
        f"blocks 0 to {num_layers - 1}", "Use the adapter with the model that it was trained on.",
    )  # fmt: skip
    return LoraConfig(int(fields["r"]), float(fields["lora_alpha"]), tuple(sorted(targets)), tuple(layers))


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
            own = np.asarray(part[layer]) if hasattr(part, "__array__") else _Shape(part.shape[1:])
            yield ".".join([*name[:at], str(layer), *name[at:]]), own


class _Shape:
    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
