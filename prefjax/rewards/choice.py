"""Random-utility models: from scores to the probability that one completion is preferred."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned, one_each
from prefjax.types import Scalar


def bradley_terry_probability(
    reward: Float[Array, "*batch"], other_reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The probability that y is preferred to y', by a reward of each.

        P(y ≻ y'|x) = σ(r(x, y) - r(x, y'))

    Always transitive: no rewards represent a cycle.

    Args:
      reward: r(x, y).
      other_reward: r(x, y').

    Returns: a probability for each pair.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is at most 1/4.
    Relatives: `two_input_probability` where the score of a pair is a difference of rewards; `thurstone_probability`
      with normal noise; `davidson_probabilities` and `rao_kupper_probabilities` with ties.
    Source: Bradley and Terry, "Rank Analysis of Incomplete Block Designs", 1952.
    """
    reward, other_reward = aligned("bradley_terry_probability", reward=reward, other_reward=other_reward)
    return jax.nn.sigmoid(reward - other_reward)


def two_input_probability(
    score: Float[Array, "*batch"], swapped_score: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """The probability that y is preferred to y', by a model that reads both, in both orders.

        P(y ≻ y'|x) = σ((s(x, y, y') - s(x, y', y)) / 2)

    P(y ≻ y') + P(y' ≻ y) = 1 exactly, whatever s is, and cycles are possible.

    Args:
      score: s(x, y, y').
      swapped_score: s(x, y', y).

    Returns: a probability for each pair.
    Raises: InputError where the shapes differ.
    Range: the slope in each score is at most 1/8.
    Relatives: `bradley_terry_probability` where s(x, y, y') = r(x, y) - r(x, y').
    Elsewhere: RLHFlow averages the probabilities of the two orders and not their logits, which is another number.
    Source: derived; `losses.preference_model_loss` learns s.
    """
    score, swapped_score = aligned("two_input_probability", score=score, swapped_score=swapped_score)
    return jax.nn.sigmoid((score - swapped_score) / 2)


def thurstone_probability(
    mean: Float[Array, "*batch"],
    other_mean: Float[Array, "*batch"],
    variance: Float[Array, "*batch"],
    other_variance: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """The probability that y is preferred to y', by independent normal utilities.

        P(y ≻ y') = Φ((μ - μ')/√(σ² + σ'²))

    Args:
      mean: μ of the utility of y.
      other_mean: μ' of y'.
      variance: σ² > 0 of the utility of y. Equal variances are Thurstone's case V.
      other_variance: σ'² > 0 of y'.

    Returns: a probability for each pair.
    Raises: InputError where the shapes differ.
    Range: finite wherever the variances are positive; where both are 0 and the means equal it is nan.
    Relatives: `bradley_terry_probability`, from which it is never further than 0.01 where σ² + σ'² = 1.702².
      `losses.thurstone_loss` fits means and variances; where the variances differ, P(y ≻ y') > 1/2 still follows
      the order of the means, so there are no cycles.
    Source: Thurstone, "A Law of Comparative Judgment", 1927, case III.
    """
    mean, other_mean, variance, other_variance = aligned(
        "thurstone_probability",
        mean=mean,
        other_mean=other_mean,
        variance=variance,
        other_variance=other_variance,
    )
    return jax.scipy.special.ndtr((mean - other_mean) / jnp.sqrt(variance + other_variance))


def davidson_probabilities(
    reward: Float[Array, "*batch"],
    other_reward: Float[Array, "*batch"],
    *,
    tie: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch 3"]:
    """How a comparison ends where ties are allowed, by Davidson's model.

        P(y wins) : P(y' wins) : P(tie) = e^r : e^r' : ν e^((r + r')/2)

    Args:
      reward: r(x, y).
      other_reward: r(x, y').
      tie: ν > 0, how common ties are: between equals the probability of one is ν/(2 + ν).

    Returns: three probabilities of sum 1: y wins, y' wins, tie.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is at most 1/4; rewards of ±1e4 are fine.
    Relatives: ν → 0 is `bradley_terry_probability`; also given that there is no tie.
    Source: Davidson, "On Extending the Bradley-Terry Model to Accommodate Ties", 1970.
    """
    reward, other_reward, nu = aligned(
        "davidson_probabilities",
        reward=reward,
        other_reward=other_reward,
        tie=one_each(tie, reward),
    )
    logits = jnp.stack([reward, other_reward, (reward + other_reward) / 2 + jnp.log(nu)], axis=-1)
    return jax.nn.softmax(logits, axis=-1)


def rao_kupper_probabilities(
    reward: Float[Array, "*batch"],
    other_reward: Float[Array, "*batch"],
    *,
    threshold: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch 3"]:
    """How a comparison ends where ties are allowed, by the model of Rao and Kupper: one wins by a margin or ties.

        P(y wins) = σ(r - r' - log θ),   P(y' wins) = σ(r' - r - log θ),   P(tie) the rest

    Args:
      reward: r(x, y).
      other_reward: r(x, y').
      threshold: θ ≥ 1; log θ is the margin that a win takes.

    Returns: three probabilities of sum 1: y wins, y' wins, tie.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is at most 1/4; rewards of ±1e4 are fine.
    Relatives: θ = 1 is `bradley_terry_probability`; `ordinal_probabilities` of r - r' with thresholds ∓log θ, which
      say lose, tie, win.
    Source: Rao and Kupper, "Ties in Paired-Comparison Experiments", 1967.
    """
    reward, other_reward, theta = aligned(
        "rao_kupper_probabilities",
        reward=reward,
        other_reward=other_reward,
        threshold=one_each(threshold, reward),
    )
    d, margin = reward - other_reward, jnp.log(theta)
    win, lose = jax.nn.sigmoid(d - margin), jax.nn.sigmoid(-d - margin)
    # σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)), which does not cancel.
    tie = jax.nn.sigmoid(margin - d) * jax.nn.sigmoid(margin + d) * -jnp.expm1(-2 * margin)
    return jnp.stack([win, lose, tie], axis=-1)
