"""Low-rank adapters as a part of the parameter tree: put in, taken apart, put together, merged.

    W' = W + (α / r) B A        only A [r, in] and B [out, r] are trained

A policy with adapters is a policy whose configuration says so. Training splits its tree in two, the adapters (and
what else was asked for) and the rest, which gets no gradient and no optimiser state; the reference is the rest by
itself, under the policy without adapters: nothing is held twice.
Source: Hu et al., "LoRA", 2021, eq. 3 (arXiv:2106.09685).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from prefjax.checks import refuse, require
from prefjax.policy.config import LoraConfig
from prefjax.policy.functional import Policy, abstract, init

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = ("lora_A", "lora_B")


def with_adapters(
    policy: Policy, params: PyTree, lora: LoraConfig, key: Key[Array, ""]
) -> tuple[Policy, PyTree]:
    """The same function with adapters in it: A random, B zero.

    Args:
      policy, params: without adapters. `params` may be shapes, and then so are the adapters.
      lora: which ones.
      key: decides A.

    Raises: InputError for a target that no block has, or parameters that have adapters already.
    """
    for target in lora.targets:
        if target not in LORA_TARGETS:
            refuse("LoRA targets", repr(target), f"some of {', '.join(LORA_TARGETS)}", "Choose among these.")
    require(
        bool(lora.targets),
        "LoRA targets",
        "none",
        f"some of {', '.join(LORA_TARGETS)}",
        "Choose among these.",
    )
    require(
        policy.config.lora is None,
        "LoRA",
        "parameters with adapters",
        "parameters without",
        "Merge them first.",
    )
    config = replace(policy.config, lora=lora)
    adapted, shapes = abstract(config)
    if not isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
        # Of the whole new tree only the adapters are made.
        shapes = jax.jit(lambda key: split_adapters(init(config, key)[1])[0])(key)
    else:
        shapes = split_adapters(shapes)[0]
    return adapted, join(shapes, params)


def without_adapters(policy: Policy) -> Policy:
    """The policy of the base alone; its parameters are the second part of `split_adapters`."""
    return abstract(replace(policy.config, lora=None))[0]


def split_adapters(params: PyTree, also: tuple[str, ...] = ()) -> tuple[PyTree, PyTree]:
    """What is trained (adapters, and every part named in `also`, as "score"), and the rest."""
    names = {*ADAPTER, *also}
    return _keep(params, lambda path: bool(names & set(path))), _keep(
        params, lambda path: not names & set(path)
    )


def join(trained: PyTree, fixed: PyTree) -> PyTree:
    """The whole tree out of its two parts."""
    if not isinstance(trained, dict) or not isinstance(fixed, dict):
        refuse("parameters", "the same one twice", "two parts of one tree", "Split and join the same tree.")
    whole = dict(fixed)
    for name, part in trained.items():
        whole[name] = join(part, fixed[name]) if name in fixed else part
    return whole


def merge_adapters(policy: Policy, params: PyTree) -> tuple[Policy, PyTree]:
    """The same function without adapters: W + (α / r) B A in place of W, in float32."""
    lora = policy.config.lora
    if lora is None:
        return policy, params
    layers = jnp.isin(jnp.arange(policy.config.num_layers), jnp.array(lora.layers)) if lora.layers else 1.0
    scale = jnp.reshape(lora.alpha / lora.rank * jnp.asarray(layers, jnp.float32), (-1, 1, 1))

    def merged(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        if "lora_A" not in part:
            return {name: merged(inner) for name, inner in part.items()}
        a, b = (part[name]["weight"].astype(jnp.float32) for name in ADAPTER)
        update = scale * jnp.einsum("lor,lri->loi", b, a)
        weight = (part["weight"].astype(jnp.float32) + update).astype(part["weight"].dtype)
        return {**{name: inner for name, inner in part.items() if name not in ADAPTER}, "weight": weight}

    return without_adapters(policy), merged(params)


def _keep(tree: PyTree, wanted: Callable[[tuple[str, ...]], bool], path: tuple[str, ...] = ()) -> PyTree:
    kept = {}
    for name, part in tree.items():
        if isinstance(part, dict):
            if inner := _keep(part, wanted, (*path, name)):
                kept[name] = inner
        elif wanted((*path, name)):
            kept[name] = part
    return kept
