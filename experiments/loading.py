"""Models as a run holds them: what is trained, what is not, each born where it will live on the mesh."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.settings import Config, lora_of
from prefjax.align import preference_judge, reward_judge
from prefjax.checks import refuse, require
from prefjax.policy import (
    PARTITION,
    DecoderConfig,
    Policy,
    abstract,
    in_compute_dtype,
    join,
    load_huggingface,
    read_config,
    split_adapters,
    with_adapters,
)
from prefjax.train import spread


class Model(NamedTuple):
    """A policy and its parameters in two parts, which `joined` puts together.

    `fixed` is () where everything is trained; under adapters it is the base, and `trained` the adapters.
    """

    policy: Policy
    trained: Any
    fixed: Any = ()

    def joined(self, trained: Any) -> Any:
        return join(trained, self.fixed) if self.fixed else trained


def load_trained(config: Config, mesh: Mesh, **head: Any) -> Model:
    """--model, to be trained: all of it, or adapters on it (and the score head, which no base has)."""
    lora = lora_of(config)
    if lora is None:
        return Model(*load(config, config.model, mesh, **head))
    policy, params = load(config, config.model, mesh, frozen=True, **head)
    policy, params = with_adapters(policy, params, lora, adapter_key(config))
    trained, fixed = split_adapters(params, also=("score",))
    if not config.plan:
        masters = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained)
        trained = jax.device_put(masters, spread(trained, mesh, PARTITION))
    return Model(policy, trained, fixed)


def load_reference(config: Config, mesh: Mesh, model: Model) -> Any:
    """π₀, of the same structure as the model and in arrays of its own, in the dtype of the computation.

    Under adapters it is the base with adapters that are off, B = 0: of the base itself there is no second copy.
    """
    if config.reference == config.model and model.fixed:
        return model.joined(model.trained if config.plan else jax.tree.map(jnp.copy, model.trained))
    other, params = load(config, config.reference, mesh, frozen=True)
    # Which only a new model reads, or which change nothing.
    ours = replace(model.policy.config, lora=None)
    unread = ("initializer_range", "bos_token_id", "eos_token_ids", "pad_token_id", "max_position_embeddings")
    theirs = replace(other.config, **{name: getattr(ours, name) for name in unread})
    require(
        theirs == ours, "--reference", f"{config.reference} has another architecture ({_differences(ours, theirs)})",
        "that of --model", "Take the model that training started from.",
    )  # fmt: skip
    if model.policy.config.lora is None:
        return params
    return with_adapters(other, params, model.policy.config.lora, adapter_key(config))[1]


def load(
    config: Config, directory: str, mesh: Mesh, *, frozen: bool = False, **head: Any
) -> tuple[Policy, Any]:
    """A policy and its parameters, each device with its part; their shapes only, where a plan is asked for.

    Frozen ones are held in the dtype that they are computed with: the same results, half the memory in bfloat16.
    """
    wanted = replace(
        read_config(directory, dtype=config.dtype, num_scores=head.get("num_scores")),
        remat=config.remat, scan_layers=config.scan_layers,
    )  # fmt: skip
    policy, shapes = abstract(wanted)
    if config.plan:
        return policy, in_compute_dtype_shapes(policy, shapes) if frozen else shapes
    _, params = load_huggingface(
        directory, dtype=config.dtype, shardings=spread(shapes, mesh, PARTITION), **head
    )
    if frozen and config.dtype != "float32":
        params = jax.jit(in_compute_dtype, donate_argnums=1)(policy, params)
    return policy, params


def in_compute_dtype_shapes(policy: Policy, shapes: Any) -> Any:
    return jax.eval_shape(lambda params: in_compute_dtype(policy, params), shapes)


def load_judge(config: Config, mesh: Mesh) -> tuple[str, Policy, Callable, Any]:
    """What the judge is by its judge.json, its policy, the judge and its parameters.

    Without a judge.json it is a reward model, as TRL's RewardTrainer saves it.
    """
    policy, params = load(config, config.judge, mesh, frozen=True)
    require(
        policy.config.num_scores > 0, "--judge", f"{config.judge} is a language model", "a model with a score head",
        "Train one with --algorithm preference or reward.",
    )  # fmt: skip
    about = Path(config.judge) / "judge.json"
    try:
        kind: Any = json.loads(about.read_text())["judge"] if about.exists() else "reward"
    except (ValueError, KeyError, TypeError):
        kind = "not to be read"
    if kind == "reward":
        return kind, policy, reward_judge(policy), params
    if kind not in ("bilinear", "joint"):
        refuse(
            f"{about}",
            f"the kind of judge is {kind}",
            "reward, bilinear or joint",
            "Use the directory as it was exported.",
        )
    return kind, policy, preference_judge(policy, form=kind, max_completion=config.max_new_tokens), params


def adapter_key(config: Config) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), 1)


def _differences(ours: DecoderConfig, theirs: DecoderConfig) -> str:
    pairs = {name: (value, vars(theirs)[name]) for name, value in vars(ours).items()}
    return ", ".join(f"{name} {b}, not {a}" for name, (a, b) in pairs.items() if a != b)
