"""Contrastive preference learning: two segments of behaviour, and which of them fell short by less."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def cpl_loss(
    chosen_logps: Float[Array, "*batch T"],
    rejected_logps: Float[Array, "*batch T"],
    chosen_mask: Shaped[Array, "*batch T"],
    rejected_mask: Shaped[Array, "*batch T"],
    *,
    temperature: Scalar,
    discount: Scalar = 1.0,
    bias: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Contrastive preference learning: people prefer the segment of less regret, and log π* is an advantage.

        loss = -log σ(S⁺ - λ S⁻),   S = Σₜ γᵗ α log π(aₜ|sₜ)

    Behaviour cloning joins it in three ways. CPL(λ): none, after a policy was cloned. CPL-BC: `nll_loss` of all
    steps is added, averaged by `Weighted.tokens`, and λ = 1. CPL-KL: log π - log π₀ of the cloned policy π₀ stands
    for log π here.

    Args:
      chosen_logps: log π of each action of the preferred segment, in nats.
      rejected_logps: those of the other segment. Segments should be equally long: the sum counts every step.
      chosen_mask: 1 where there is a step, 0 where a shorter segment has none; t counts the steps that are there.
      rejected_mask: the same of the other segment.
      temperature: α > 0 of maximum-entropy control, in advantage per nat; the paper's is 0.1, with KL 0.2.
      discount: γ in [0, 1]. The paper writes it, its code has 1.
      bias: λ in (0, 1], on the rejected segment; the paper's is 0.5, with KL 0.75. Below 1 the level
        counts as well: of policies that differ by a constant factor it prefers the likelier one.

    Returns: a loss in nats for each pair; log 2 where S⁺ = λS⁻. A tie is half the sum of the losses of both orders.
    Raises: InputError where the shapes differ.
    Range: slope at most αγᵗ for a chosen step and λαγᵗ for a rejected one; log-probabilities of -1e4 are fine.
    Optimum: with λ = 1 and Bradley-Terry labels of summed optimal advantages, π* = exp(A*/α), the optimal policy
      of maximum-entropy control. Only differences of sums are seen, so that finite data leave π open elsewhere.
    Relatives: one step and λ = 1 make it `cpo_loss`, which is `dpo_loss` with a uniform reference; of log-ratios
      and λ = 1 it is `dpo_loss` of their sums, with β = α. Many segments of one situation, ranked:
      `all_pairs_loss` of S.
    Elsewhere: the authors take -|a - μ(s)|² for log π, without ½ and constant: α counts twice, and with λ < 1 the
      constant that is left out would matter.
    Source: Hejna et al., "Contrastive Preference Learning", 2023, eq. 5 (arXiv:2310.13639); λ in its section 3.3.
    """
    chosen, rejected, chosen_mask, rejected_mask = aligned(
        "cpl_loss",
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    better = temperature * _discounted_sum(chosen, chosen_mask, discount)
    worse = temperature * _discounted_sum(rejected, rejected_mask, discount)
    return -log_sigmoid(better - bias * worse)


def _discounted_sum(
    logps: Float[Array, "*batch T"], mask: Float[Array, "*batch T"], discount: Scalar
) -> Float[Array, "*batch"]:
    """Σₜ γᵗ log πₜ over the steps that are there."""
    present = mask != 0
    steps = jnp.cumsum(present, axis=-1) - 1
    # No negative power of γ for padding in front, which would be infinite with γ = 0.
    weights = jnp.asarray(discount, logps.dtype) ** jnp.maximum(steps, 0)
    return jnp.sum(jnp.where(present, weights * logps, 0.0), axis=-1)
