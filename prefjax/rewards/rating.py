"""Grades on an ordered scale: how probable each is, by one score and the thresholds between them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid


def ordinal_log_probabilities(
    score: Float[Array, "*batch"], thresholds: Float[Array, "*batch K"]
) -> Float[Array, "*batch K+1"]:
    """The log-probability of each of K + 1 grades.

        log P(y = k) = log[σ(θ_(k+1) - s) - σ(θ_k - s)]
                     = log σ(θ_(k+1) - s) + log σ(s - θ_k) + log(1 - e^(θ_k - θ_(k+1)))

    The second form is exact where the first subtracts two numbers near 1.

    Args:
      score: s of a completion.
      thresholds: θ₁ < … < θ_K, a row for each score.

    Returns: log-probabilities of grades 0 … K; -inf, without gradient, where thresholds are equal or out of order.
    Raises: InputError where the shapes disagree.
    Range: the slope in the score is at most 1; scores of ±1e4 are fine.
    Relatives: `ordinal_loss` of `prefjax.losses` is one of them with the sign changed.
    Source: McCullagh, "Regression Models for Ordinal Data", 1980. The second form is derived.
    """
    return _log_probabilities("ordinal_log_probabilities", score, thresholds)


def ordinal_probabilities(
    score: Float[Array, "*batch"], thresholds: Float[Array, "*batch K"]
) -> Float[Array, "*batch K+1"]:
    """The probability of each of K + 1 grades.

        P(y = k) = σ(θ_(k+1) - s) - σ(θ_k - s),   θ₀ = -∞,  θ_(K+1) = ∞

    Args:
      score: s of a completion.
      thresholds: θ₁ < … < θ_K, a row for each score: `jnp.broadcast_to` shares one row.

    Returns: probabilities of grades 0 … K, of sum 1.
    Raises: InputError where the shapes disagree.
    Relatives: Of a difference of rewards with thresholds ∓log θ: lose, tie, win of `rao_kupper_probabilities`, in
      this order.
    Source: McCullagh, "Regression Models for Ordinal Data", 1980, proportional odds.
    """
    return jnp.exp(_log_probabilities("ordinal_probabilities", score, thresholds))


def _log_probabilities(function, score, thresholds):
    if jnp.ndim(thresholds) == 0 or jnp.shape(thresholds)[:-1] != jnp.shape(score):
        refuse(
            function,
            f"score has shape {jnp.shape(score)}, thresholds has shape {jnp.shape(thresholds)}",
            "a row of thresholds for each score: […] and […, K]", "jnp.broadcast_to(thresholds, (*score.shape, K))",
        )  # fmt: skip
    (score,) = aligned(function, score=score)
    (thresholds,) = aligned(function, thresholds=thresholds)
    below, above = (
        log_sigmoid(thresholds - score[..., None]),
        log_sigmoid(score[..., None] - thresholds),
    )
    gaps = thresholds[..., 1:] - thresholds[..., :-1]
    room = gaps > 0
    between = jnp.where(room, jnp.log(-jnp.expm1(-jnp.where(room, gaps, 1.0))), -jnp.inf)
    inner = below[..., 1:] + above[..., :-1] + between
    return jnp.concatenate([below[..., :1], inner, above[..., -1:]], axis=-1)
