"""How far to trust a judge: does it rank right, and is it right as often as it says?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def ranking_accuracy(
    chosen_reward: Float[Array, "*batch"], rejected_reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Whether a judge ranks a pair as its label does; a tie is half right.

        1 if r(x, y⁺) > r(x, y⁻),   1/2 if equal,   0 if less;   nan if either is

    Args:
      chosen_reward: r(x, y⁺); a probability P(y⁺ ≻ y⁻) against 1/2 will do as well.
      rejected_reward: r(x, y⁻).

    Returns: a number for each pair; the mean is the caller's.
    Raises: InputError where the shapes differ.
    Range: 0, 1/2 or 1, without gradient.
    Relatives: of log π(y|x) it is the ranking accuracy of a policy, summed over tokens or averaged; of implicit rewards
      log π(y|x) - log π₀(y|x) it is the reward accuracy, another number. `idealised_ranking_accuracy` is what the
      first would be at the optimum.
    Elsewhere: TRL counts a tie as wrong, so that an untrained constant model has accuracy 0; Chen et al.,
      "Preference Learning Algorithms Do Not Learn Preference Rankings", as right.
    Source: the area under the ROC curve counts ties so; Hanley and McNeil, 1982.
    """
    chosen_reward, rejected_reward = aligned(
        "ranking_accuracy", chosen_reward=chosen_reward, rejected_reward=rejected_reward
    )
    return (1 + jnp.sign(chosen_reward - rejected_reward)) / 2


def brier_score(
    probability: Float[Array, "*batch"], outcome: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The squared error of a probability; a proper score.

        (p - y)²

    Args:
      probability: p, what the judge says of "the first is preferred".
      outcome: y, 1 where it was, 0 where not.

    Returns: a number in [0, 1] for each pair; the mean is the caller's.
    Raises: InputError where the shapes differ.
    Range: slope at most 2. Least, in expectation, where p is the true probability.
    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    probability, outcome = aligned("brier_score", probability=probability, outcome=outcome)
    return (probability - outcome) ** 2


class ReliabilityCurve(NamedTuple):
    """For each bin of confidence its mean confidence and accuracy, nan where it is empty, and its number of pairs."""

    confidence: Float[Array, "*batch num_bins"]
    accuracy: Float[Array, "*batch num_bins"]
    number: Float[Array, "*batch num_bins"]


def reliability_curve(
    probability: Float[Array, "*batch N"], outcome: Float[Array, "*batch N"], *, num_bins: int = 10
) -> ReliabilityCurve:
    """How often a judge is right, where it says how sure it is: on the diagonal if calibrated.

        conf_b = 1/n_b Σ max(p, 1 - p),   acc_b = 1/n_b Σ [the likelier one was preferred],   b a bin of (1/2, 1]

    Args:
      probability: p of N pairs, what the judge says of "the first is preferred".
      outcome: y, 1 where it was, 0 where not.
      num_bins: static; equal bins of confidence, right end included. (A confidence of exactly 1/2 belongs to the first
        bin and is half right.)

    Returns: `ReliabilityCurve`.
    Raises: InputError where the shapes differ.
    Range: between 1/2 and 1, and between 0 and 1.
    Relatives: `expected_calibration_error` is the mean distance to the diagonal, weighted by number.
    Source: DeGroot and Fienberg, "The Comparison and Evaluation of Forecasters", 1983; Guo et al., "On Calibration of
      Modern Neural Networks", 2017 (arXiv:1706.04599).
    """
    confidence, right, count = _binned("reliability_curve", probability, outcome, num_bins)
    some = jnp.where(count > 0, count, jnp.nan)
    return ReliabilityCurve(confidence / some, right / some, count)


def expected_calibration_error(
    probability: Float[Array, "*batch N"], outcome: Float[Array, "*batch N"], *, num_bins: int = 10
) -> Float[Array, "*batch"]:
    """How far confidence and accuracy are apart, averaged over bins of confidence.

        Σ_b n_b/N |conf_b - acc_b|,   confidence max(p, 1 - p) in equal bins of (1/2, 1], right end included

    Of a finite sample it is too large, the more so the finer the bins: compare at one N and one `num_bins`.

    Args:
      probability: p of N pairs, what the judge says of "the first is preferred".
      outcome: y, 1 where it was, 0 where not.
      num_bins: static. (A confidence of exactly 1/2 belongs to the first bin and is half right.)

    Returns: the error, in [0, 1].
    Raises: InputError where the shapes differ.
    Range: between 0 and 1; not continuous where a confidence crosses into another bin.
    Relatives: the mean over `reliability_curve` of |conf - acc|, weighted by number.
    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; Guo et al.,
      "On Calibration of Modern Neural Networks", 2017, eq. 3 (arXiv:1706.04599).
    """
    confidence, right, _ = _binned("expected_calibration_error", probability, outcome, num_bins)
    # |n conf - n acc| of a bin, so that an empty one is 0 and not 0/0.
    return jnp.abs(confidence - right).sum(axis=-1) / jnp.shape(probability)[-1]


def _binned(function, probability, outcome, num_bins):
    """Sums over bins of confidence: the confidence, how many were right, how many there were."""
    probability, outcome = aligned(function, probability=probability, outcome=outcome)
    confidence = jnp.maximum(probability, 1 - probability)
    right = jnp.where(probability == 0.5, 0.5, jnp.where(probability > 0.5, outcome, 1 - outcome))
    inner = jnp.linspace(0.5, 1.0, num_bins + 1, dtype=confidence.dtype)[1:-1]
    member = jax.nn.one_hot(
        jnp.searchsorted(inner, confidence, side="left"), num_bins, dtype=confidence.dtype
    )
    columns = jnp.stack([confidence, right, jnp.ones_like(right)])
    return tuple(jnp.einsum("...nb,c...n->c...b", member, columns, precision="highest"))
