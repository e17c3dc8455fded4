"""Random-utility models: from scores to the probability that one completion is preferred."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


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
    Source: derived; `losses.preference_model_loss` learns s.
    """
    score, swapped_score = aligned("two_input_probability", score=score, swapped_score=swapped_score)
    return jax.nn.sigmoid((score - swapped_score) / 2)
