"""Losses of judges that rate a completion by itself: on a scale of grades, or with a number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.rewards.rating import ordinal_log_probabilities


def ordinal_loss(
    score: Float[Array, "*batch"], thresholds: Float[Array, "*batch K"], label: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Maximum likelihood of grades: one score, cut into K + 1 ordered grades by K thresholds.

        loss = -log[σ(θ_(y+1) - s) - σ(θ_y - s)],   θ₀ = -∞,  θ_(K+1) = ∞

    Args:
      score: s of a completion, or the difference of two where grades say by how much the first is better.
      thresholds: θ₁ < … < θ_K in units of score, a row for each score: `jnp.broadcast_to` shares one row.
      label: the grade y in 0 … K.

    Returns: a loss in nats for each score.
    Raises: InputError where the shapes disagree.
    Range: the slope in the score is at most 1; scores of ±1e4 are fine. The loss is inf, without gradient, for a
      grade that thresholds out of order leave no room, and nan for a label that is no grade.
    Optimum: P(y ≤ k) = σ(θ_(k+1) - s) as in the data. A constant added to score and thresholds changes nothing.
    Relatives: one threshold at 0 and labels 0, 1 is `bradley_terry_loss` against a reward of 0. Of a difference of
      rewards with thresholds ∓log θ it is the model of Rao and Kupper, with ties. The logistic case of cumulative
      links; `ordinal_probabilities` of `prefjax.rewards` has the probabilities.
    Source: McCullagh, "Regression Models for Ordinal Data", 1980, proportional odds; Rao and Kupper, "Ties in
      Paired-Comparison Experiments", 1967.
    """
    if jnp.shape(thresholds)[:-1] != jnp.shape(score) or jnp.ndim(thresholds) == 0:
        refuse(
            "ordinal_loss", f"score has shape {jnp.shape(score)}, thresholds has shape {jnp.shape(thresholds)}",
            "a row of thresholds for each score: […] and […, K]", "jnp.broadcast_to(thresholds, (*score.shape, K))",
        )  # fmt: skip
    score, label = aligned("ordinal_loss", score=score, label=label)
    logs = ordinal_log_probabilities(score, thresholds)
    is_grade = jax.lax.broadcasted_iota(jnp.int32, logs.shape, logs.ndim - 1) == label[..., None]
    loss = -jnp.sum(jnp.where(is_grade, logs, 0.0), axis=-1)
    return jnp.where(jnp.any(is_grade, axis=-1), loss, jnp.nan)


def rating_loss(
    score: Float[Array, "*batch"], rating: Float[Array, "*batch"], mask: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Regression of a head, or of several at once, to ratings of which some are missing.

        loss = m (s - y)²

    Args:
      score: s, the number of one head for one completion; several heads are a last axis like any other.
      rating: y, on the scale that the score is to have; may hold anything, nan too, where there is none.
      mask: m, 1 where there is a rating, 0 where not. The mean is the caller's, with the same weights:
        `Weighted.tokens(loss, mask)`, over each head by itself where heads are to count alike.

    Returns: a squared error for each rating, 0 where there is none.
    Raises: InputError where the shapes differ.
    Range: the slope is 2|s - y|, without bound; finite to 1e19.
    Optimum: the mean rating.
    Relatives: `ridge_heads` of `prefjax.rewards` solves it at once, with a penalty, where only the heads are
      learned. `ordinal_loss` does not take the distance between grades for granted.
    Source: Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
      (ArmoRM), 2024, stage 1 (arXiv:2406.12845).
    """
    score, rating, mask = aligned("rating_loss", score=score, rating=rating, mask=mask)
    present = mask != 0
    # Before the difference: a nan behind the mask would come back through the gradient.
    return jnp.where(present, (score - jnp.where(present, rating, 0.0)) ** 2, 0.0)
