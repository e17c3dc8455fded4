"""Binary classifier optimisation: the implicit reward is the logit of "liked", from a point that moves along."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar, Weighted


def bco_loss(
    logratio: Float[Array, "*batch"],
    desirable: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    shift: Scalar,
) -> Float[Array, "*batch"]:
    """Binary classifier optimisation: the implicit reward, shifted, is the logit of "liked".

        loss = -log σ(βρ - δ)   if the completion is desirable,   ρ = log π(y|x) - log π₀(y|x)
             = -log σ(δ - βρ)   if not

    Where prompts of liked and disliked completions differ, the paper weighs the latter: `bco_importance_weight` of a
    classifier of prompts, times what is returned here.

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      desirable: 1 where it was liked, 0 where not.
      beta: β > 0, in reward per nat away from π₀.
      shift: δ, in units of reward, through which no gradient flows: the mean of `bco_shift` over everything seen.

    Returns: a loss in nats for each completion; log 2 where βρ = δ.
    Raises: InputError where the shapes differ.
    Range: slope at most β; log-ratios of ±1e4 are fine.
    Optimum: βρ - δ = logit(q) for a completion that is liked with probability q.
    Relatives: `bco_pair_loss` of a pair's two completions. `kto_loss` has the sigmoid itself for its logarithm, so
      that hopeless completions are left alone, and here never.
    Elsewhere: TRL has its BCOTrainer up to 1.10.
    Source: Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", 2024
      (arXiv:2404.04656).
    """
    logratio, desirable = aligned("bco_loss", logratio=logratio, desirable=desirable)
    logit = beta * logratio - jax.lax.stop_gradient(shift)
    return -log_sigmoid(jnp.where(desirable > 0, logit, -logit))


def bco_shift(
    logratio: Float[Array, "*batch"], weight: Shaped[Array, "*batch"] | None = None, *, beta: Scalar
) -> Weighted:
    """BCO's reward shift: the mean implicit reward of everything seen, liked or not.

        δ = mean of βρ,   ρ = log π(y|x) - log π₀(y|x)

    Sums of microbatches add up, and so do those of steps: carry the sum from step to step, add this step's *before*
    its `mean()` is used, and every completion ever seen weighs the same.

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      weight: 1 for each real row, 0 for one that only fills a batch; 1 for all unless given.
      beta: β > 0, in reward per nat away from π₀.

    Returns: the sum and the number of rows, of which no gradient flows.
    Raises: InputError where the shapes differ.
    Range: exact for log-ratios of ±1e4; a row of weight 0 may hold anything, nan too.
    Relatives: the paper's δ is the middle of the mean rewards of liked and of disliked completions, which this is
      where there are as many of both. `kto_kl` is the reference point of `kto_loss`.
    Elsewhere: TRL up to 1.10 runs this mean over training. EasyDeL subtracts the batch's mean and lets the gradient
      flow through it.
    Source: Jung et al., "Binary Classifier Optimization", 2024 (arXiv:2404.04656).
    """
    weight = jnp.ones_like(logratio) if weight is None else weight
    logratio, weight = aligned("bco_shift", logratio=logratio, weight=weight)
    return Weighted.of(jax.lax.stop_gradient(beta * logratio), weight)


def bco_importance_weight(
    logit: Float[Array, "*batch"], *, minimum: Scalar = 0.5, maximum: Scalar = 10.0
) -> Float[Array, "*batch"]:
    """What a disliked completion counts, so that its prompts are distributed like those of liked ones.

        w = p/(1 - p) = e^logit, cut to [minimum, maximum],   p = P(liked | x) of a classifier of prompts

    Args:
      logit: log p - log(1 - p) of the classifier, at the prompt of each disliked completion. It has to be fitted
        with balanced classes, or the odds of the classes stand in front of the density ratio.
      minimum: the least weight, > 0.
      maximum: the largest.

    Returns: a weight for each completion, to multiply `bco_loss` with; that of a liked one is 1.
    Raises: nothing.
    Range: finite for every logit; no gradient where the weight is cut.
    Relatives: with minimum = maximum = 1 it is no correction.
    Elsewhere: TRL up to 1.10 takes p and divides by 1 - p + 1e-8; the same within the cut.
    Source: Jung et al., "Binary Classifier Optimization", 2024 (arXiv:2404.04656); the cut is TRL's.
    """
    (logit,) = aligned("bco_importance_weight", logit=logit)
    return jnp.exp(jnp.clip(logit, jnp.log(minimum), jnp.log(maximum)))
