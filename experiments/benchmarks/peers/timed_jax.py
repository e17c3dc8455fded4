"""rlax's half of the benchmark of losses, and EasyDeL's where no line of torch is left: both compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers.alone import alone

Case = tuple[Callable[[Mapping[str, Any]], Any], tuple[str, ...]]


def _rlax(name: str) -> Callable[..., Any]:
    import rlax

    return getattr(rlax, name)


def _policy_gradient(a: Mapping[str, Any]) -> Any:
    flat = a["logits"].reshape(-1, a["logits"].shape[-1])
    spread = jnp.broadcast_to(a["advantages"][:, None], a["tokens"].shape).reshape(-1)
    return _rlax("policy_gradient_loss")(flat, a["tokens"].reshape(-1), spread, jnp.ones_like(spread))


def _clipped(a: Mapping[str, Any]) -> Any:
    ratio = jnp.exp(a["logps"] - a["behaviour_logps"]).reshape(-1)
    spread = jnp.broadcast_to(a["advantages"][:, None], a["logps"].shape).reshape(-1)
    return _rlax("clipped_surrogate_pg_loss")(ratio, spread, 0.2)


def _entropy(a: Mapping[str, Any]) -> Any:
    flat = a["logits"].reshape(-1, a["logits"].shape[-1])
    return -_rlax("entropy_loss")(flat, jnp.ones(len(flat)))


def _gae(a: Mapping[str, Any]) -> Any:
    values, estimate = (
        jnp.pad(a["values"], ((0, 0), (0, 1))),
        _rlax("truncated_generalized_advantage_estimation"),
    )
    return jax.vmap(lambda r, d, v: estimate(r, d, 0.8, v))(a["token_rewards"], 0.9 * a["mask"], values)


def _discounted(a: Mapping[str, Any]) -> Any:
    nothing = jnp.zeros_like(a["values"])
    return jax.vmap(_rlax("discounted_returns"))(a["token_rewards"], 0.9 * a["mask"], nothing)


def _bco(a: Mapping[str, Any]) -> Any:
    module = alone("easydel.trainers.binary_classifier_optimization_trainer._fn")
    liked = a["desirable"] > 0
    return module.compute_bco_loss(
        a["chosen"], jnp.zeros_like(a["chosen"]), liked, ~liked, beta=0.1, delta=0.3
    )[0]


RLAX: dict[str, Case] = {
    "reinforce_loss, from logits": (_policy_gradient, ("logits",)),
    "ppo_clip_loss": (_clipped, ("logps",)),
    "kl_exact": (
        lambda a: _rlax("categorical_kl_divergence")(a["logits"], a["reference_logits"]).mean(), ("logits",)
    ),
    "entropy": (_entropy, ("logits",)),
    "value_loss": (lambda a: _rlax("l2_loss")(a["values"], a["returns"]).mean(), ("values",)),
    "generalized_advantage_estimation": (_gae, ()),
    "discounted_returns": (_discounted, ()),
}  # fmt: skip
EASYDEL: dict[str, Case] = {"bco_loss": (_bco, ("chosen",))}
