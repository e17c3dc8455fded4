"""Losses that compare distributions: at every quantile the chosen completions should beat the rejected ones.

These are the losses of this room that mix examples, and they do it by a sort. What they are given, along the
last axis, is the population: give them the pairs of a whole optimiser step, or accept that how a batch was
cut changes the loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.rewards.ordering import argsort
from prefjax.types import Scalar


def aot_loss(
    chosen_logp: Float[Array, "*batch N"],
    rejected_logp: Float[Array, "*batch N"],
    chosen_reference_logp: Float[Array, "*batch N"],
    rejected_reference_logp: Float[Array, "*batch N"],
    mask: Shaped[Array, "*batch N"],
    *,
    beta: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch N"]:
    """Alignment by optimal transport, on pairs: the policy's margins should dominate the reference's.

        lossᵢ = -(1 - ε) log σ(βδᵢ) - ε log σ(-βδᵢ),   δᵢ = mᵢ - (the reference's margin of the same rank)
        m = log π(y⁺|x) - log π(y⁻|x),   the reference's margins likewise under π₀

    Args:
      chosen_logp: log π(y⁺|x) of N pairs, summed over tokens, in nats.
      rejected_logp: log π(y⁻|x).
      chosen_reference_logp: log π₀(y⁺|x) under the frozen reference.
      rejected_reference_logp: log π₀(y⁻|x).
      mask: 1 for a pair, 0 for a row that only fills the batch; such a row takes part in no sort.
      beta: β > 0, in reward per nat away from π₀.
      label_smoothing: ε in [0, 1/2), as in `dpo_loss`.

    Returns: a loss in nats for each pair, in the order of the pairs: pair i meets the reference's margin of its
      own rank. 0 where the mask is.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: margins that beat the reference's at every quantile; no closed form.
    Relatives: with one pair, and wherever policy and reference rank the pairs alike, `dpo_loss` pair by pair.
    Elsewhere: TRL returns the same numbers sorted, of the batch of one device.
    Source: Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", 2024, AOT paired
      (arXiv:2406.05882).
    """
    *logps, mask = aligned(
        "aot_loss", chosen_logp=chosen_logp, rejected_logp=rejected_logp,
        chosen_reference_logp=chosen_reference_logp, rejected_reference_logp=rejected_reference_logp, mask=mask,
    )  # fmt: skip
    margin, reference_margin = logps[0] - logps[1], logps[2] - logps[3]
    return _quantile_by_quantile(margin, reference_margin, mask, beta, label_smoothing)


def aot_unpaired_loss(
    chosen_logratio: Float[Array, "*batch N"],
    rejected_logratio: Float[Array, "*batch N"],
    mask: Shaped[Array, "*batch N"],
    *,
    beta: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch N"]:
    """Alignment by optimal transport, unpaired: log-ratios of chosen completions should dominate the others'.

        lossᵢ = -(1 - ε) log σ(βδᵢ) - ε log σ(-βδᵢ),   δᵢ = ρ⁺ᵢ - (the ρ⁻ of the same rank)

    Which chosen completion came with which rejected one is not used.

    Args:
      chosen_logratio: ρ⁺ = log π(y|x) - log π₀(y|x) of N preferred completions, summed over tokens, in nats.
      rejected_logratio: ρ⁻ of N others.
      mask: 1 where both are real, 0 for a row that only fills the batch; such a row takes part in no sort.
      beta: β > 0, in reward per nat away from π₀.
      label_smoothing: ε in [0, 1/2), as in `dpo_loss`.

    Returns: a loss in nats for each chosen completion, in their order: it meets the rejected one of its own rank.
      0 where the mask is.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: chosen log-ratios that beat the rejected ones at every quantile; no closed form.
    Relatives: with one pair `dpo_loss`; the order of the rejected completions does not matter.
    Elsewhere: TRL returns the same numbers sorted, of the batch of one device.
    Source: Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", 2024, AOT
      unpaired (arXiv:2406.05882).
    """
    chosen_logratio, rejected_logratio, mask = aligned(
        "aot_unpaired_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio, mask=mask
    )
    return _quantile_by_quantile(chosen_logratio, rejected_logratio, mask, beta, label_smoothing)


def _quantile_by_quantile(upper, lower, mask, beta, label_smoothing):
    present = mask != 0
    # Absent rows go to the far end of both sorts, so that no present one meets them.
    by_rank, lower_by_rank = (argsort(jnp.where(present, x, jnp.inf)) for x in (upper, lower))
    meets = jnp.put_along_axis(by_rank, by_rank, lower_by_rank, axis=-1, inplace=False)
    partner = jnp.take_along_axis(lower, meets, axis=-1)
    upper, partner = (jnp.where(present, x, 0.0) for x in (upper, partner))
    loss = dpo_loss(upper, partner, beta=beta, label_smoothing=label_smoothing)
    return jax.lax.select(present, loss, jnp.zeros_like(loss))
