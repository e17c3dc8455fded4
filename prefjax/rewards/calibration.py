"""How far to trust a judge: does it rank right, and is it right as often as it says?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def ranking_accuracy(
    chosen_reward: Float[Array, "*batch"], rejected_reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Whether a judge ranks a pair as its label does; a tie is half right.

        1 if r(x, y⁺) > r(x, y⁻),   1/2 if equal,   0 if less;   nan if either is

    Counted as wrong, as in TRL, ties give an untrained constant model an accuracy of 0.

    Args:
      chosen_reward: r(x, y⁺); a probability P(y⁺ ≻ y⁻) against 1/2 will do as well.
      rejected_reward: r(x, y⁻).

    Returns: a number for each pair; the mean is the caller's.
    Raises: InputError where the shapes differ.
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
    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    probability, outcome = aligned("brier_score", probability=probability, outcome=outcome)
    return (probability - outcome) ** 2


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
    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015; Guo et al.,
      "On Calibration of Modern Neural Networks", 2017, eq. 3 (arXiv:1706.04599).
    """
    probability, outcome = aligned("expected_calibration_error", probability=probability, outcome=outcome)
    confidence = jnp.maximum(probability, 1 - probability)
    right = jnp.where(probability == 0.5, 0.5, jnp.where(probability > 0.5, outcome, 1 - outcome))
    inner = jnp.linspace(0.5, 1.0, num_bins + 1, dtype=confidence.dtype)[1:-1]
    member = jax.nn.one_hot(
        jnp.searchsorted(inner, confidence, side="left"), num_bins, dtype=confidence.dtype
    )
    # |n conf - n acc| of a bin, so that an empty one is 0 and not 0/0.
    gaps = jnp.abs(jnp.einsum("...nb,...n->...b", member, confidence - right))
    return gaps.sum(axis=-1) / confidence.shape[-1]
