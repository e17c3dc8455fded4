"""One reward from several reward models: where they disagree, none is to be believed.

The last axis is the ensemble, M scores of one completion on a common scale (`standardised_rewards` of each member
makes one). A score that could not be computed is nan and takes no part; where all are, the result is nan.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def mean_reward(scores: Float[Array, "*batch M"]) -> Float[Array, "*batch"]:
    """The mean over an ensemble.

        R = 1/M Σᵢ rᵢ

    Args:
      scores: rᵢ of M reward models.

    Returns: a reward for each completion.
    Raises: nothing.
    Range: finite where the sum is; the slope in each score is 1/M.
    Relatives: `uncertainty_weighted_reward` with coefficient 0; no less than `worst_case_reward`.
    Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", 2023, eq. 3
      (arXiv:2310.02743).
    """
    scores, present, count = _members(scores)
    return jnp.where(
        count > 0, jnp.sum(jnp.where(present, scores, 0.0), axis=-1) / jnp.maximum(count, 1), jnp.nan
    )


def worst_case_reward(scores: Float[Array, "*batch M"]) -> Float[Array, "*batch"]:
    """Worst-case optimisation (WCO): what the most pessimistic member says.

        R = minᵢ rᵢ

    Args:
      scores: rᵢ of M reward models. On different scales this is the one of the lowest offset everywhere.

    Returns: a reward for each completion.
    Raises: nothing.
    Range: as wide as the scores; the gradient belongs to the least score, divided among equal ones.
    Relatives: `uncertainty_weighted_reward` as another pessimist; with one member both are `mean_reward`.
    Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", 2023, eq. 4
      (arXiv:2310.02743).
    """
    scores, present, count = _members(scores)
    return jnp.where(
        count > 0, jnp.min(jnp.where(present, scores, jnp.inf), axis=-1, initial=jnp.inf), jnp.nan
    )


def uncertainty_weighted_reward(
    scores: Float[Array, "*batch M"], *, coefficient: Scalar, ddof: Scalar = 0
) -> Float[Array, "*batch"]:
    """Uncertainty-weighted optimisation (UWO): the mean less a price of the variance between members.

        R = r̄ - λ 1/(M - ddof) Σᵢ (rᵢ - r̄)²

    Args:
      scores: rᵢ of M reward models.
      coefficient: λ ≥ 0, per unit of reward: rewards c times as large want λ/c. The paper's runs use 0.5 for
        best-of-n and 0.1 for PPO.
      ddof: 0 as in the paper, or 1.

    Returns: a reward for each completion; the mean where M - ddof is not positive.
    Raises: nothing.
    Range: quadratic in the scores, finite to about 1e18.
    Relatives: λ = 0 is `mean_reward`. It falls below `worst_case_reward` where λ times the variance exceeds the
      distance of the mean from the least score.
    Elsewhere: the released code divides by M for best-of-n and by M - 1 in PPO: ddof = 0 and 1, 25 % apart for five
      members.
    Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization", 2023, eq. 5
      (arXiv:2310.02743).
    """
    mean = mean_reward(scores)
    scores, present, count = _members(scores)
    squares = jnp.sum(jnp.where(present, scores - mean[..., None], 0.0) ** 2, axis=-1)
    degrees = count - ddof
    return mean - coefficient * jnp.where(degrees > 0, squares / jnp.where(degrees > 0, degrees, 1), 0.0)


def _members(scores):
    """The scores, with 0 for nan; which are there; how many."""
    (scores,) = aligned("ensemble", scores=scores)
    present = ~jnp.isnan(scores)
    return jnp.where(present, scores, 0.0), present, jnp.sum(present, axis=-1)
