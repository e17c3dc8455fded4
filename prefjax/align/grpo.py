"""GRPO and its relatives from log-probabilities on: which loss, over which average."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from prefjax.losses import cispo_loss, gmpo_loss, kl_k3, ppo_clip_loss, sapo_loss, vespo_loss
from prefjax.types import Scalar, Weighted

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo", "gspo", "gmpo"]
Level = Literal["token", "sequence"]
# ε and ε_high unless given: TRL's 0.2, but for GMPO, which counts in nats, TRL's 0.4, and for GSPO its paper's.
CLIPS = {"gmpo": (0.4, 0.4), "gspo": (3e-4, 4e-4)}


def clip_range(loss_type: str, epsilon: float | None, epsilon_high: float | None) -> tuple[float, float]:
    """ε and ε_high, as given or by the loss; ε_high is ε where only that is given."""
    low, high = CLIPS.get(loss_type, (0.2, 0.2))
    if epsilon is not None:
        low = high = epsilon
    return low, high if epsilon_high is None else epsilon_high


def grpo_terms(
    logps: Float[Array, "B C"],
    reference_logps: Float[Array, "B C"],
    behaviour_logps: Float[Array, "B C"],
    advantages: Float[Array, " B"],
    present: Float[Array, "B C"],
    weight: Float[Array, " B"],
    learned: Float[Array, " B"],
    mean_length: Float[Array, " B"],
    *,
    loss_type: LossType,
    importance_sampling_level: Level,
    beta: float,
    use_bias_correction_kl: bool,
    epsilon: float,
    epsilon_high: float,
    delta: float | None,
    loss_settings: Mapping[str, Scalar] = {},
) -> dict[str, Weighted]:
    """The objective of GRPO from log-probabilities on; see `grpo_objective`, which is this joined to a policy."""
    mask = present * (weight * learned)[:, None]
    # Before anything is computed of it: 0 times the slope at nan is nan.
    behaviour_logps, reference_logps = (
        jnp.where(mask > 0, values, jax.lax.stop_gradient(logps))
        for values in (behaviour_logps, reference_logps)
    )
    advantages = jnp.where(weight > 0, advantages, 0.0)
    by_token = jnp.broadcast_to(advantages[:, None], logps.shape)
    lengths = jnp.maximum(jnp.sum(present, axis=-1), 1.0)
    log_ratio = logps - behaviour_logps
    if importance_sampling_level == "sequence" or loss_type == "gspo":
        mean = jnp.sum(log_ratio * present, axis=-1) / lengths
        log_ratio = jnp.broadcast_to(mean[:, None], logps.shape)
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))

    # Losses of tokens; GMPO's are of sequences, and are added further down.
    clipped: dict[str, Bool[Array, "B C"]] = {}
    if loss_type == "cispo":
        behaviour = jax.lax.stop_gradient(logps - log_ratio)
        losses = cispo_loss(logps, behaviour, by_token, max_ratio=epsilon_high)
        clipped = {"cispo_clip_ratio": (ratio > epsilon_high) & (by_token > 0)}
    elif loss_type == "sapo":
        losses = sapo_loss(log_ratio, jnp.zeros_like(logps), by_token, **loss_settings)
    elif loss_type == "vespo":
        losses = vespo_loss(logps, behaviour_logps, advantages, mask, **loss_settings)
    elif loss_type == "gmpo":
        losses = jnp.zeros_like(logps)
        # The same regions, in nats: 1 + d < 1 - ε.
        clipped = clip_regions(1 + jax.lax.stop_gradient(log_ratio), by_token, epsilon, epsilon_high)
    else:
        cap = jnp.inf if delta is None else delta
        losses = ppo_clip_loss(
            log_ratio, jnp.zeros_like(logps), by_token,
            epsilon_low=epsilon, epsilon_high=epsilon_high, max_ratio=cap,
        )  # fmt: skip
        clipped = clip_regions(ratio, by_token, epsilon, epsilon_high)
    kl = kl_k3(logps, reference_logps)
    if use_bias_correction_kl:
        kl = kl * jnp.exp(jnp.clip(log_ratio, -20.0, 20.0))
    if beta != 0:
        losses = losses + beta * kl

    per_sequence = jnp.sum(jnp.where(mask > 0, losses, 0.0), axis=-1)
    if loss_type in ("grpo", "gspo", "sapo"):
        loss = Weighted.of(per_sequence / lengths, weight)
    elif loss_type == "gmpo":
        each = gmpo_loss(
            logps, behaviour_logps, advantages, mask, epsilon_low=epsilon, epsilon_high=epsilon_high
        )
        loss = Weighted.of(each * learned + per_sequence / lengths, weight)
    elif loss_type == "luspo":
        loss = Weighted.of(per_sequence, weight)
    elif loss_type == "dr_grpo":
        loss = Weighted.of(per_sequence / logps.shape[-1], weight)
    elif loss_type == "bnpo":
        loss = Weighted.tokens(losses, mask)
    else:
        # Σ over sequences of the mean length is the number of tokens where one update takes the whole rollout.
        loss = Weighted(Weighted.of(per_sequence, weight).total, jnp.sum(weight * mean_length))
    measured = {"kl": kl} if beta != 0 else {}
    measured |= {"ratio": ratio, **{name: which.astype(jnp.float32) for name, which in clipped.items()}}
    return {**{name: Weighted.tokens(values, mask) for name, values in measured.items()}, "loss": loss}


def clip_regions(
    ratio: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    epsilon: Scalar,
    epsilon_high: Scalar,
) -> dict[str, Bool[Array, "*batch"]]:
    """Where the surrogate has no gradient, under TRL's names."""
    low = (ratio < 1 - epsilon) & (advantages < 0)
    high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": low | high}
