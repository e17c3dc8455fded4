"""Losses on single completions, each labelled as liked or not: what is gained and lost against a reference point."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar, Weighted


def kto_loss(
    logratio: Float[Array, "*batch"],
    desirable: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    kl: Scalar,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Kahneman-Tversky optimisation: a gain is worth ever less, a loss hurts ever less, seen from z₀.

        loss = w_D (1 - σ(β(ρ - z₀)))   if the completion is desirable,   ρ = log π(y|x) - log π₀(y|x)
             = w_U (1 - σ(β(z₀ - ρ)))   if not,                           z₀ = max(0, KL)

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      desirable: 1 where it was liked, 0 where not.
      beta: β > 0, in reward per nat away from π₀.
      kl: the reference point in nats, through which no gradient flows: the mean of `kto_kl` over the whole optimiser
        step. A negative estimate counts as 0.
      desirable_weight: w_D. The paper asks for w_D n_D / (w_U n_U) between 1 and 4/3.
      undesirable_weight: w_U.

    Returns: a loss in (0, w) for each completion; w/2 where π = π₀ and z₀ = 0. The mean is over examples, not
      over their weights, as in TRL.
    Raises: InputError where the shapes differ.
    Range: slope at most wβ/4, and none for completions far from z₀ on either side, also the wrong one; log-ratios
      of ±1e4 are fine.
    Optimum: none, it saturates: ρ drifts up without end for a completion that is liked with a probability of more
      than w_U/(w_D + w_U), and down otherwise.
    Relatives: with z₀ = 0 it is `apo_zero_unpaired_loss`, and of a pair's two completions then `apo_zero_loss`.
      `bco_loss` takes the logarithm of the same sigmoid.
    Elsewhere: EasyDeL's loss type `kto` on pairs is the sigmoid loss of DPO. TRL estimates z₀ within a device's
      batch, here it is over the whole step.
    Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, eq. 7
      (arXiv:2402.01306).
    """
    logratio, desirable = aligned("kto_loss", logratio=logratio, desirable=desirable)
    z = beta * (logratio - jax.lax.stop_gradient(jnp.maximum(kl, 0.0)))
    gain, pain = jax.nn.sigmoid(-z), jax.nn.sigmoid(z)
    return jnp.where(desirable > 0, desirable_weight * gain, undesirable_weight * pain)


def kto_kl(
    mismatched_logratio: Float[Array, "*batch"], weight: Shaped[Array, "*batch"] | None = None
) -> Weighted:
    """KTO's estimate of KL(π‖π₀), its reference point: log-ratios of completions at prompts that are not theirs.

        KL ≈ mean of log π(y'|x) - log π₀(y'|x),   y' the completion of another prompt

    Sums of microbatches add up, and `kto_loss` takes their `mean()` and holds it at 0 or above: once for the whole
    optimiser step, since the maximum of a mean is not the mean of maxima.

    Args:
      mismatched_logratio: log π(y'|x) - log π₀(y'|x), summed over tokens, in nats. A usual mismatch gives each
        prompt the completion of the row before it.
      weight: 1 for each real row, 0 for one that only fills a batch; 1 for all unless given.

    Returns: the sum and the number of rows, of which no gradient flows.
    Raises: InputError where the shapes differ.
    Range: exact for log-ratios of ±1e4; a row of weight 0 may hold anything, nan too.
    Relatives: the mean over completions drawn from π itself would be `kl_k1`. Matched completions would measure how
      much the policy likes its training data.
    Elsewhere: TRL and HALOs turn completions within what one device sees at a time, and so their estimates depend on
      that; they are this one where that is the whole step.
    Source: Ethayarajh et al., "KTO", 2024, section 4.1 (arXiv:2402.01306).
    """
    weight = jnp.ones_like(mismatched_logratio) if weight is None else weight
    logratio, weight = aligned("kto_kl", mismatched_logratio=mismatched_logratio, weight=weight)
    return Weighted.of(jax.lax.stop_gradient(logratio), weight)


def apo_zero_unpaired_loss(
    logratio: Float[Array, "*batch"],
    desirable: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Anchored preference optimisation of single completions: what is liked rises above π₀, what is not sinks below.

        loss = w_D (1 - σ(βρ))   if the completion is desirable,   ρ = log π(y|x) - log π₀(y|x)
             = w_U σ(βρ)         if not

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      desirable: 1 where it was liked, 0 where not.
      beta: β > 0, in reward per nat away from π₀.
      desirable_weight: w_D.
      undesirable_weight: w_U.

    Returns: a loss in (0, w) for each completion; w/2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: slope at most wβ/4, and none far from π₀ on either side; log-ratios of ±1e4 are fine.
    Optimum: none, it saturates, as `kto_loss` does.
    Relatives: `kto_loss` whose z₀ is held at 0. Of a pair's two completions: `apo_zero_loss`.
    Elsewhere: a loss type of TRL's KTOTrainer, without any estimate of KL.
    Source: D'Oosterlinck et al., "Anchored Preference Optimization and Contrastive Revisions", 2024
      (arXiv:2408.06266).
    """
    logratio, desirable = aligned("apo_zero_unpaired_loss", logratio=logratio, desirable=desirable)
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto_loss(logratio, desirable, beta=beta, kl=0.0, **weights)
