"""Policy gradients without a hard clip: the further the ratio is from 1, the less a token counts."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar

MAX_LOG_RATIO = 20.0
# VESPO's own code takes log(max(w, 1e-8)), as does TRL's.
MIN_LOG_WEIGHT = math.log(1e-8)


def sapo_loss(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    *,
    temperature_positive: Scalar = 1.0,
    temperature_negative: Scalar = 1.05,
) -> Float[Array, "*batch"]:
    """Soft adaptive policy optimisation: a sigmoid where PPO has a clip, steeper for what is to be made rarer.

        lossₜ = -(4/τ) σ(τ(ρₜ - 1)) Aₜ,   τ = τ⁺ where Aₜ > 0, else τ⁻,   ρₜ = π(yₜ|·) / π_b(yₜ|·)

    The gradient in log π is -4σ(1 - σ) ρ A, which fades on both sides of ρ = 1 and vanishes nowhere.

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      temperature_positive: τ⁺ > 0. The larger, the narrower the range of ratios that still count.
      temperature_negative: τ⁻ > 0.

    Returns: a surrogate for each token, between -4A/τ and 0 for A > 0; -2A/τ at ρ = 1.
    Raises: InputError where the shapes differ.
    Range: finite everywhere; log-ratios beyond ±20 count as ±20, without gradient. The slope is at most 1.58|A| for
      τ = 1, at ρ = 2.06.
    Optimum: on a fixed batch none: ratios are pushed on, ever more weakly. With fresh samples at ρ = 1, that of
      `reinforce_loss`.
    Relatives: at ρ = 1 the gradient is that of `reinforce_loss`, whatever τ; with τ → 0 it is -ρA, as of
      `ppo_clip_loss` without a clip.
    Elsewhere: the average is `Weighted.sequences`, in TRL too.
    Source: Gao et al., "Soft Adaptive Policy Optimization", 2025 (arXiv:2511.20347).
    """
    logps, behaviour_logps, advantages = aligned(
        "sapo_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages
    )
    log_ratio = logps - jax.lax.stop_gradient(behaviour_logps)
    ratio = jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    advantages = jax.lax.stop_gradient(advantages)
    temperature = jnp.where(advantages > 0, temperature_positive, temperature_negative)
    return -4 / temperature * jax.nn.sigmoid(temperature * (ratio - 1)) * advantages


def vespo_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    k_positive: Scalar = 2.0,
    lambda_positive: Scalar = 3.0,
    k_negative: Scalar = 3.0,
    lambda_negative: Scalar = 2.0,
) -> Float[Array, "*batch T"]:
    """Variational sequence-level soft policy optimisation: the weight of a whole sequence, softly bounded.

        lossₜ = -sg(φ(w)) A log π(yₜ|·),   φ(w) = wᵏ exp(λ(1 - w)),   w = Πₜ π(yₜ|·)/π_b(yₜ|·),   sg: no gradient
        (k, λ) = (k⁺, λ⁺) where A >= 0, else (k⁻, λ⁻)

    The gradient in log π is -φ(w)A, on purpose not that of the value. φ(1) = 1, and φ is largest at w = k/λ: where
    A >= 0 for sequences that have become rarer (2/3), where A < 0 for those that have become likelier (3/2).

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them: of the sampler itself, where
        its numbers and the trainer's differ.
      advantages: A of each sequence, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      k_positive: k⁺ >= 0.
      lambda_positive: λ⁺ >= 0.
      k_negative: k⁻ >= 0.
      lambda_negative: λ⁻ >= 0.

    Returns: a surrogate for each token.
    Raises: InputError where the shapes disagree.
    Range: finite everywhere; a token's log-ratio beyond ±20 counts as ±20, log w beyond 20 as 20, and
      below log 1e-8 as that. The slope is at most (k/λ)ᵏ exp(λ - k) |A|: 1.21|A| for A >= 0, 1.24|A| for A < 0.
    Optimum: on a fixed batch none; with fresh samples at w = 1, that of `reinforce_loss`.
    Relatives: at w = 1 the gradient is that of `reinforce_loss`; with λ = 0 and k = 1 it weighs tokens by the ratio of
      their whole sequence, which is exact off-policy up to w = e²⁰.
    Elsewhere: TRL averages over the tokens of a step (`Weighted.tokens`). It multiplies w by the truncated weights of
      `truncated_importance_weights` for tokens; without truncation that is the sampler's own log π_b here.
    Source: Shen et al., "VESPO", 2026 (arXiv:2602.10693).
    """
    logps, behaviour_logps, mask = aligned(
        "vespo_loss", logps=logps, behaviour_logps=behaviour_logps, mask=mask
    )
    log_ratios = jnp.where(mask == 0, 0.0, logps - behaviour_logps)
    log_weight = jnp.sum(jnp.clip(log_ratios, -MAX_LOG_RATIO, MAX_LOG_RATIO), axis=-1)
    log_weight, advantages = aligned("vespo_loss", logps=log_weight, advantages=advantages)
    log_weight = jnp.clip(log_weight, MIN_LOG_WEIGHT, MAX_LOG_RATIO)
    k = jnp.where(advantages >= 0, k_positive, k_negative)
    lambda_ = jnp.where(advantages >= 0, lambda_positive, lambda_negative)
    weight = jnp.exp(k * log_weight - lambda_ * jnp.expm1(log_weight))
    return -jax.lax.stop_gradient(weight * advantages)[..., None] * logps
