"""Unlikelihood: what must not be said is made improbable, token by token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def unlikelihood_loss(logps: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """Minus the log-likelihood of not saying a token.

        lossₜ = -log(1 - π(cₜ | x, y₍<ₜ₎))

    Args:
      logps: log π of each token cₜ to be avoided there, in nats: of a rejected completion's own tokens, or, against
        repetition, of tokens that were said before. Padding may hold anything, it is the average that masks.

    Returns: a loss in nats for each token; about π where π is small.
    Raises: nothing.
    Range: the slope is π/(1 - π). A log-probability nearer to 0 than a rounding error of 1 counts as that, without a
      gradient there, so that a certain token costs 16 nats and not infinitely many.
    Optimum: π(cₜ) = 0.
    Relatives: log π plus this are the log odds that `odds_ratio_loss` compares. `unlikelihood_pair_loss` sums it
      over a rejected completion.
    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training", 2019 (arXiv:1908.04319).
    """
    (logps,) = aligned("unlikelihood_loss", logps=logps)
    logps = jnp.minimum(logps, -jnp.finfo(logps.dtype).eps)
    # 1 - p without cancelling, whichever of p and 1 - p is small; each branch sees only what it is for.
    near = logps > -0.6931472
    log_of_rest_near = jnp.log(-jnp.expm1(jnp.where(near, logps, -1.0)))
    log_of_rest_far = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, logps)))
    return -jnp.where(near, log_of_rest_near, log_of_rest_far)


def unlikelihood_pair_loss(
    chosen_logps: Float[Array, "*batch T"],
    rejected_logps: Float[Array, "*batch T"],
    chosen_mask: Shaped[Array, "*batch T"],
    rejected_mask: Shaped[Array, "*batch T"],
    *,
    alpha: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Likelihood of the chosen completion's tokens, unlikelihood of the rejected one's.

        loss = -Σₜ log π(y⁺ₜ | x, y⁺₍<ₜ₎) - α Σₜ log(1 - π(y⁻ₜ | x, y⁻₍<ₜ₎))

    Args:
      chosen_logps: log π of each token of the preferred completion, in nats.
      rejected_logps: those of the other one.
      chosen_mask: 1 where there is a token of y⁺, 0 where a shorter one has none.
      rejected_mask: the same of y⁻.
      alpha: α >= 0, what the second sum counts; the paper's is 1.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
    Range: slope 1 in the chosen tokens, απ/(1 - π) in the rejected ones, with the bound of `unlikelihood_loss`.
    Optimum: of a completion of one token that is chosen with probability p and rejected otherwise, and α = 1:
      π = p. It imitates what is liked; no reward is found.
    Relatives: with α = 0 the sum of `nll_loss`. Every token of y⁻ is pushed down, also those that both share,
      unlike in `cpo_loss`, where they cancel.
    Elsewhere: the baseline that the DPO paper calls unlikelihood has α log π(y⁻|x) for the second sum, and no
      bound below.
    Source: Welleck et al., "Neural Text Generation with Unlikelihood Training", 2019 (arXiv:1908.04319).
    """
    chosen, rejected, chosen_mask, rejected_mask = aligned(
        "unlikelihood_pair_loss",
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
    )
    likelihood = jnp.where(chosen_mask != 0, -chosen, 0.0)
    # Masked before the logarithm too: padding may hold nan, whose gradient a later mask would let through.
    rejected = jnp.where(rejected_mask != 0, rejected, -1.0)
    unlikelihood = jnp.where(rejected_mask != 0, unlikelihood_loss(rejected), 0.0)
    return likelihood.sum(axis=-1) + alpha * unlikelihood.sum(axis=-1)
