"""Weights of pairs, and of tokens within them, that come before a loss on pairs: WPO and LD-DPO."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def wpo_weights(
    logps: Float[Array, "*batch T"],
    log_sum_squares: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    max_weight: Scalar = float("inf"),
) -> Float[Array, "*batch"]:
    """Weighted preference optimisation: how much like a sample of the policy a completion is.

        w = min(w_max, exp(Σₜ mₜ(log π(yₜ) - log Σᵥ π(v)²) / Σₜ mₜ))

    The weight of a pair is the product of its two, times any loss on pairs:

        wpo_weights(chosen…) * wpo_weights(rejected…) * dpo_loss(…)

    Args:
      logps: log π of each token, in nats.
      log_sum_squares: log Σᵥ π(v)² over the vocabulary at each token, logsumexp(2z) - 2 logsumexp(z) of its
        logits z: the expectation of π(v) when v is sampled.
      mask: 1 for a token of the completion, 0 for padding, which may hold anything.
      max_weight: w_max.

    Returns: w for each completion, without a gradient; 1 where every next token was a uniform draw, and for a
      completion without tokens. Not bounded by 1, but by (1 + √V)/2 with V tokens to choose from.
    Raises: InputError where the shapes differ.
    Range: everywhere; an exponent above 80, which no policy has, counts as 80.
    Relatives: with log maxᵥ π(v) in place of `log_sum_squares` it is the paper's greedy alignment, at most 1.
    Elsewhere: TRL 1.16 has this weight, without a clamp; older versions clamped the product of the two at 1, and
      1.10 let a gradient through `logps`. open-instruct multiplies sums by masks, which gives another number.
    Source: Zhou et al., "WPO: Enhancing RLHF with Weighted Preference Optimization", 2024, eq. 2
      (arXiv:2406.11827); the bound is derived.
    """
    logps, log_sum_squares, mask = aligned(
        "wpo_weights", logps=logps, log_sum_squares=log_sum_squares, mask=mask
    )
    present = mask != 0
    excess = jnp.sum(jnp.where(present, logps - log_sum_squares, 0.0), axis=-1)
    # Counted in floats: XLA sums whole numbers slower on a CPU.
    average = excess / jnp.maximum(jnp.sum(present, axis=-1, dtype=logps.dtype), 1)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(jnp.minimum(average, 80.0)), max_weight))


def ld_dpo_logp(
    logps: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    other_length: Shaped[Array, "*batch"],
    *,
    alpha: Scalar,
) -> Float[Array, "*batch"]:
    """Length-desensitised DPO: tokens that the other completion of the pair is too short to have count less.

        log π̂(y) = Σ_{t <= k} log π(yₜ) + α Σ_{t > k} log π(yₜ),   k = min(|y|, |y'|)

    Such sums of the policy, minus such sums of the reference, are the log-ratios of any loss on pairs.

    Args:
      logps: log π of each token, in nats; padding may hold anything.
      mask: 1 for a token of the completion; a prompt in front may be masked out.
      other_length: |y'|, the number of tokens of the pair's other completion.
      alpha: α in [0, 1].

    Returns: log π̂ for each completion, in nats.
    Raises: InputError where the shapes disagree.
    Range: everywhere; slope at most 1 for α in [0, 1].
    Relatives: with α = 1 the sum over tokens, and so `dpo_loss` itself; with α = 0 what is beyond the shorter one is
      ignored. Of the shorter completion it is the plain sum.
    Elsewhere: TRL's `ld_alpha`.
    Source: Liu et al., "Length Desensitization in Direct Preference Optimization", 2024 (arXiv:2409.06411).
    """
    logps, mask = aligned("ld_dpo_logp", logps=logps, mask=mask)
    present = mask != 0
    position = jnp.cumsum(present, axis=-1)
    _, limit = aligned("ld_dpo_logp", sequences=jnp.sum(present, axis=-1), other_length=other_length)
    weights = jnp.where(position <= limit[..., None], 1.0, alpha)
    return jnp.sum(jnp.where(present, weights * logps, 0.0), axis=-1)
