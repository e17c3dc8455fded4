"""Weights and masks for samples of somebody else: an inference engine, or a policy several updates old.

Three policies meet: the sampler μ, as its engine reports it; π_b, the same parameters as the trainer computes them
(or the proximal policy); and π, that is trained. Ratios π/π_b belong to the loss; the rest, π_b/μ, is a constant
weight that multiplies the loss of a token, after every clip: decoupled PPO is

    truncated_importance_weights(π_b, μ) · ppo_clip_loss(π, π_b, A)

All functions are elementwise, so for one weight a sequence (the product of its tokens') give sums over its tokens.
A `log μ` that is nan, of a token that the engine did not score, has weight 1. None of them has a gradient. The KL term
is added after, without the weight, as in TRL.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar

# e^20 is 5e8: far beyond every cap, and finite.
MAX_LOG_WEIGHT = 20.0


def truncated_importance_weights(
    logps: Float[Array, "*batch"],
    sampler_logps: Float[Array, "*batch"],
    *,
    max_weight: Scalar = 3.0,
    min_weight: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Truncated importance sampling (TIS): the ratio, cut off.

        w = clip(π_b(y)/μ(y), w_min, w_max),   y ~ μ

    Args:
      logps: log π_b of each token [..., T] as the trainer computes it, in nats; or sums over sequences [...].
      sampler_logps: log μ of the same tokens as the sampler reports it; nan where it does not.
      max_weight: w_max.
      min_weight: w_min.

    Returns: weights without unit, without gradient; 1 where both agree.
    Raises: InputError where the shapes differ.
    Range: finite everywhere: log-ratios beyond ±20 count as ±20.
    Relatives: of sums over sequences, without truncation (w_max = ∞), the policy gradient under these weights is the
      exact one; with it the bias is that of the sequences cut off, and the variance is bounded. Weights of tokens
      leave out that prefixes, too, were drawn from μ: never exact, and much less noisy.
      `masked_importance_weights` leaves out what is cut off here.
    Elsewhere: TRL's `vllm_importance_sampling_mode` "token_truncate" and "sequence_truncate" with
      `vllm_importance_sampling_clip_max`, 3; verl's rollout correction.
    Source: Ionides, "Truncated Importance Sampling", 2008; for samplers that are not the trainer: Yao et al.,
      "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025.
    """
    return jnp.clip(_weights("truncated_importance_weights", logps, sampler_logps), min_weight, max_weight)


def masked_importance_weights(
    logps: Float[Array, "*batch"],
    sampler_logps: Float[Array, "*batch"],
    *,
    max_weight: Scalar = 3.0,
    min_weight: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Masked importance sampling (IcePop, MIS): the ratio where it can be believed, 0 elsewhere.

        w 1[w_min <= w <= w_max],   w = π_b(y)/μ(y),   y ~ μ

    Args:
      logps: log π_b of each token [..., T] as the trainer computes it, in nats; or sums over sequences [...].
      sampler_logps: log μ of the same tokens as the sampler reports it; nan where it does not.
      max_weight: w_max.
      min_weight: w_min.

    Returns: weights without unit, without gradient; 0 where nothing is learned.
    Raises: InputError where the shapes differ.
    Range: finite everywhere: log-ratios beyond ±20 count as ±20.
    Relatives: equals `truncated_importance_weights` wherever nothing is cut off.
    Elsewhere: TRL's modes "token_mask" and "sequence_mask" (its default), with a cap of 3 and no floor. IcePop is the
      mask of tokens with both bounds. A masked token stays in the denominator of the average, as in TRL.
    Source: Ling Team, "Every Step Evolves" (IcePop), 2025 (arXiv:2510.18855).
    """
    weights = _weights("masked_importance_weights", logps, sampler_logps)
    return jnp.where((weights >= min_weight) & (weights <= max_weight), weights, 0.0)


def off_policy_sequence_mask(
    logps: Float[Array, "*batch T"],
    sampler_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    threshold: Scalar,
) -> Float[Array, "*batch"]:
    """DeepSeek-V3.2's mask: bad samples that the policy would hardly write any more teach nothing.

        1 where A >= 0 or 1/|y| Σₜ (log μ(yₜ|·) - log π(yₜ|·)) <= δ, else 0

    Args:
      logps: log π of each token under the policy that is trained, in nats.
      sampler_logps: log μ of the same tokens under what sampled them; nan counts as no difference.
      advantages: A of each sequence, in units of reward.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything.
      threshold: δ, in nats a token; 0.5 for one.

    Returns: 1 or 0 for each sequence, without gradient: a factor of its losses.
    Raises: InputError where the shapes disagree.
    Range: finite everywhere.
    Relatives: with δ = ∞ all are kept, as they are at π = μ with any δ >= 0.
    Elsewhere: TRL's `off_policy_mask_threshold`, none unless set.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025 (arXiv:2512.02556).
    """
    logps, sampler_logps, mask = aligned(
        "off_policy_sequence_mask", logps=logps, sampler_logps=sampler_logps, mask=mask
    )
    apart = jnp.where((mask == 0) | jnp.isnan(sampler_logps), 0.0, sampler_logps - logps)
    # Counted in floats: XLA sums whole numbers slower on a CPU.
    mean = jnp.sum(apart, axis=-1) / jnp.maximum(jnp.sum(mask != 0, axis=-1, dtype=apart.dtype), 1)
    mean, advantages = aligned("off_policy_sequence_mask", logps=mean, advantages=advantages)
    return jax.lax.stop_gradient(((advantages >= 0) | (mean <= threshold)).astype(mean.dtype))


def _weights(function, logps, sampler_logps):
    logps, sampler_logps = aligned(function, logps=logps, sampler_logps=sampler_logps)
    log_weight = jnp.where(jnp.isnan(sampler_logps), 0.0, logps - sampler_logps)
    return jax.lax.stop_gradient(jnp.exp(jnp.clip(log_weight, -MAX_LOG_WEIGHT, MAX_LOG_WEIGHT)))
