"""Whether stated preferences behave like a utility: counted in both orders, complete, free of cycles."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def counted_preference(
    wins: Shaped[Array, "*batch"], losses: Shaped[Array, "*batch"], unread: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """How often one option was preferred, over answers in both orders; an answer that cannot be read is half a win.

        p = (wins + unread/2) / (wins + losses + unread)

    Args:
      wins: answers for the option, whichever of the two places it was shown in.
      losses: answers for the other one.
      unread: answers for neither.

    Returns: p in [0, 1]; nan where nobody answered.
    Raises: InputError where the shapes differ.
    Range: between 0 and 1.
    Relatives: the `target` of `losses.thurstone_loss`; p of a pair the other way round is 1 - p.
    Source: Mazeika et al., "Utility Engineering", 2025, code (arXiv:2502.08640).
    """
    wins, losses, unread = aligned("counted_preference", wins=wins, losses=losses, unread=unread)
    total = wins + losses + unread
    return jnp.where(total > 0, (wins + unread / 2) / jnp.where(total > 0, total, 1.0), jnp.nan)


def normalised_utilities(
    means: Float[Array, "*batch N"], variances: Float[Array, "*batch N"], *, ddof: Scalar = 1
) -> tuple[Float[Array, "*batch N"], Float[Array, "*batch N"]]:
    """Utilities on the scale where the means have mean 0 and standard deviation 1: the same preferences.

        μ̃ = (μ - μ̄)/s,   σ̃² = σ²/s²,   s² = Σ (μ - μ̄)²/(N - ddof)

    Args:
      means: μ of all N options.
      variances: σ².
      ddof: 1 as in the released code, or 0.

    Returns: μ̃ and σ̃²; nan where all means are equal.
    Raises: InputError where the shapes differ.
    Range: without bound where s is near 0.
    Relatives: `thurstone_probability` of any two options is as before.
    Elsewhere: the released code adds 1e-5 to s, twice for the variances.
    Source: Mazeika et al., "Utility Engineering", 2025, code (arXiv:2502.08640).
    """
    means, variances = aligned("normalised_utilities", means=means, variances=variances)
    centred = means - jnp.mean(means, axis=-1, keepdims=True)
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / (means.shape[-1] - ddof)
    return centred / jnp.sqrt(variance), variances / variance


def cycle_probability(
    first_over_second: Float[Array, "*batch"],
    second_over_third: Float[Array, "*batch"],
    third_over_first: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """How probable three independent answers about three options are a cycle, either way round.

        p₁₂ p₂₃ p₃₁ + (1 - p₁₂)(1 - p₂₃)(1 - p₃₁)

    Args:
      first_over_second: p₁₂, the probability that the first option is preferred to the second.
      second_over_third: p₂₃.
      third_over_first: p₃₁.

    Returns: a probability for each triad; 1/4 for coin tosses, 0 for a transitive certainty.
    Raises: InputError where the shapes differ.
    Range: between 0 and 1, slope at most 1.
    Relatives: `games` solves what has cycles. A utility can fit most pairs of an agent with planted cycles: look at
      both.
    Source: Mazeika et al., "Utility Engineering", 2025 (arXiv:2502.08640); the formula is derived.
    """
    one, two, three = aligned(
        "cycle_probability",
        first_over_second=first_over_second,
        second_over_third=second_over_third,
        third_over_first=third_over_first,
    )
    return one * two * three + (1 - one) * (1 - two) * (1 - three)


def preference_confidence(preference: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """How complete a preference is: 0 for indifference, 1 for certainty.

        |2p - 1|

    Args:
      preference: p of a pair.

    Returns: a number in [0, 1] for each pair; the mean over pairs is the completeness of a set of preferences.
    Raises: nothing.
    Range: between 0 and 1; gradient 0 at the kink.
    Relatives: twice the confidence of `reliability_curve`, less 1.
    Source: Mazeika et al., "Utility Engineering", 2025 (arXiv:2502.08640); the statistic is our reading.
    """
    (preference,) = aligned("preference_confidence", preference=preference)
    difference = 2 * preference - 1
    return jnp.where(difference == 0, 0.0, jnp.abs(difference))


def expected_utility(
    utilities: Float[Array, "*batch N"], lottery: Float[Array, "*batch N"]
) -> Float[Array, "*batch"]:
    """What a lottery over options is worth to who maximises expected utility.

        EU = Σₒ pₒ μₒ

    Args:
      utilities: μ of N options.
      lottery: pₒ of each, of sum 1.

    Returns: a utility for each lottery, to be compared with the one fitted to the lottery as an option of its own.
    Raises: InputError where the shapes differ.
    Range: within those of the options.
    Relatives: a certain option is worth its utility; `rank_correlation` compares many lotteries.
    Source: von Neumann and Morgenstern, "Theory of Games and Economic Behavior", 1944; Mazeika et al., "Utility
      Engineering", 2025 (arXiv:2502.08640).
    """
    utilities, lottery = aligned("expected_utility", utilities=utilities, lottery=lottery)
    return jnp.sum(utilities * lottery, axis=-1)
