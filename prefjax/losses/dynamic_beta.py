"""β-DPO: a β that follows how far apart the pairs of a step already are, and a filter for outliers.

    found = beta_dpo_moments(chosen_logratio, rejected_logratio, mask)      # of the whole optimiser step
    running = beta_dpo_running_moments(running, found)                      # before use; at first zeros
    logits = beta_dpo_filter_logits(
        chosen_logratio, rejected_logratio, threshold=running.mean, deviation=running.deviation)
    kept = jax.lax.top_k(logits + jax.random.gumbel(key, logits.shape), 8 * N // 10)[1]
    chosen_logratio, rejected_logratio = chosen_logratio[kept], rejected_logratio[kept]
    loss = beta_dpo_loss(chosen_logratio, rejected_logratio, beta=0.1, alpha=0.6, threshold=running.mean,
                         batch_margin=(chosen_logratio - rejected_logratio).mean())

The margin M = ρ⁺ - ρ⁻ is in nats here, as in the authors' code. With an implicit reward's margin, β₀ times that,
α is to be divided by β₀.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def beta_dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    alpha: Scalar,
    batch_margin: Scalar,
    threshold: Scalar,
    min_beta: Scalar = 1e-3,
) -> Float[Array, "*batch"]:
    """β-DPO: DPO whose β grows with the margins that the batch already has.

        loss = -log σ(β(ρ⁺ - ρ⁻)),   β = max(β_min, β₀(1 + α(M̄ - M₀))),   M = ρ⁺ - ρ⁻

    Pairs that are far apart are thought to be easy or wrong, and with a large β they move the policy less.

    Args:
      chosen_logratio: ρ⁺ = log π(y|x) - log π₀(y|x) of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β₀ > 0, in reward per nat away from π₀.
      alpha: α >= 0, per nat; 0.6 in the authors' example, with margins as here.
      batch_margin: M̄, the mean margin of the pairs of the whole optimiser step (those that the filter kept), in
        nats. No gradient flows through it.
      threshold: M₀, its running mean, see `beta_dpo_running_moments`. No gradient flows through it.
      min_beta: β_min; 1e-3 in the authors' code.

    Returns: a loss in nats for each pair; log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β, which has no upper limit: β₀(1 + α(M̄ - M₀)).
    Optimum: that of DPO at the β where it settles: with M̄ = M₀ this is β₀.
    Relatives: with α = 0, or M̄ = M₀, `dpo_loss` with β₀.
    Source: Wu et al., "β-DPO: Direct Preference Optimization with Dynamic β", 2024 (arXiv:2407.08639); limits and
      units from the authors' code.
    """
    chosen_logratio, rejected_logratio = aligned(
        "beta_dpo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    moved = jnp.maximum(beta * (1 + alpha * (batch_margin - threshold)), min_beta)
    return dpo_loss(chosen_logratio, rejected_logratio, beta=jax.lax.stop_gradient(moved))


class MarginMoments(NamedTuple):
    """Mean and standard deviation of margins, in nats: of a step, or running."""

    mean: Float[Array, "*batch"]
    deviation: Float[Array, "*batch"]


def beta_dpo_moments(
    chosen_logratio: Float[Array, "*batch N"],
    rejected_logratio: Float[Array, "*batch N"],
    mask: Shaped[Array, "*batch N"],
) -> MarginMoments:
    """The mean and the standard deviation of the margins of a step.

        M̄ = Σ Mᵢ / N,   s² = Σ (Mᵢ - M̄)² / (N - 1),   M = ρ⁺ - ρ⁻

    Args:
      chosen_logratio: ρ⁺ of the N pairs of a whole optimiser step, in nats.
      rejected_logratio: ρ⁻ of the others.
      mask: 1 for a pair, 0 for a row that only fills the batch.

    Returns: M̄ and s in nats, without a gradient; s = 0 of a single pair, both 0 of none.
    Raises: InputError where the shapes differ.
    Range: everywhere.
    Source: Wu et al., 2024 (arXiv:2407.08639); the N - 1 is the authors' code's.
    """
    chosen_logratio, rejected_logratio, mask = aligned(
        "beta_dpo_moments", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, mask=mask
    )
    present = mask != 0
    number = jnp.sum(present, axis=-1)
    margin = jax.lax.stop_gradient(jnp.where(present, chosen_logratio - rejected_logratio, 0.0))
    mean = jnp.sum(margin, axis=-1) / jnp.maximum(number, 1)
    squares = jnp.sum(jnp.where(present, margin - mean[..., None], 0.0) ** 2, axis=-1)
    return MarginMoments(mean, jnp.sqrt(squares / jnp.maximum(number - 1, 1)))


def beta_dpo_running_moments(
    running: MarginMoments, found: MarginMoments, *, momentum: Scalar = 0.9
) -> MarginMoments:
    """The threshold M₀ and the spread σ after another step: exponential moving averages.

        M₀ ← m M₀ + (1 - m) M̄,   σ ← m σ + (1 - m) s

    Args:
      running: M₀ and σ before the step, part of the train state; the authors' code begins with zeros.
      found: M̄ and s of the step, `beta_dpo_moments`.
      momentum: m in [0, 1).

    Returns: M₀ and σ after it; the step itself already uses them.
    Raises: nothing.
    Range: everywhere.
    Relatives: after n steps of one and the same M̄ from zero, M₀ = (1 - mⁿ)M̄.
    Source: Wu et al., 2024 (arXiv:2407.08639); zeros and order from the authors' code.
    """
    return MarginMoments(
        *(momentum * old + (1 - momentum) * new for old, new in zip(running, found, strict=True))
    )


def beta_dpo_filter_logits(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    threshold: Scalar,
    deviation: Scalar,
) -> Float[Array, "*batch"]:
    """How likely each pair is to be kept by β-DPO's filter: a Gaussian around the running mean of margins.

        logit = -(M - M₀)² / (2σ²),   P(drawn first) = softmax(logit),   M = ρ⁺ - ρ⁻

    Of a step the paper keeps a fraction, 0.8, drawn without replacement. That is the `top_k` of these logits, each
    with Gumbel noise added.

    Args:
      chosen_logratio: ρ⁺ of each pair, in nats.
      rejected_logratio: ρ⁻ of the others.
      threshold: M₀, the running mean of margins.
      deviation: σ, their running deviation; below 1e-6 it counts as that.

    Returns: a logit for each pair, 0 for one at the threshold, without a gradient.
    Raises: InputError where the shapes differ.
    Range: everywhere, log-ratios of ±1e4 too.
    Source: Wu et al., 2024 (arXiv:2407.08639).
    """
    chosen_logratio, rejected_logratio = aligned(
        "beta_dpo_filter_logits", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    away = (chosen_logratio - rejected_logratio - threshold) / jnp.maximum(deviation, 1e-6)
    return jax.lax.stop_gradient(-(away**2) / 2)
