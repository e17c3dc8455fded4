"""Random-utility models: from scores to the probability that one completion is preferred."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import refuse


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
    return jax.nn.sigmoid(_difference("bradley_terry_probability", reward=reward, other_reward=other_reward))


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
    return jax.nn.sigmoid(_difference("two_input_probability", score=score, swapped_score=swapped_score) / 2)


def _difference(function: str, **pair: Float[Array, "..."]) -> Float[Array, "..."]:
    (a, one), (b, other) = pair.items()
    if jnp.shape(one) != jnp.shape(other):
        # (B, 1) against (B,) would become (B, B) in silence.
        refuse(
            function, f"{a} has shape {jnp.shape(one)}, {b} {jnp.shape(other)}", "the same shape for both",
            "Index or reshape before the call.",
        )  # fmt: skip
    # In bfloat16 the third digit of a difference is already lost.
    return jnp.asarray(one, jnp.promote_types(jnp.result_type(one), jnp.float32)) - other
