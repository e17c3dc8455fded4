"""Verdicts of a judge that compares two completions in words: what they are worth to it, and to the policy."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def verdict_reward(
    strength: Float[Array, "*batch"], label: Float[Array, "*batch"], *, same_side: Scalar = 0.5
) -> Float[Array, "*batch"]:
    """What a judge earns by its verdict: all for the very strength, half for the right side.

        R = 1 if s = y,  1/2 if only sign s = sign y,  0 otherwise

    Args:
      strength: s of the judge in -3 … 3, by how much the second of two completions is better; 0 where none could be
        read.
      label: y, likewise, never 0.
      same_side: what the right side alone earns; 0 for a binary verdict.

    Returns: a reward for each verdict.
    Raises: InputError where the shapes differ.
    Range: between 0 and 1, without gradient.
    Source: Hong et al., "Think-RM: Enabling Long-Horizon Reasoning in Generative Reward Models", 2025, code
      (arXiv:2505.16265).
    """
    strength, label = aligned("verdict_reward", strength=strength, label=label)
    agrees = jnp.where(strength * label > 0, same_side, 0.0)
    return jnp.where((strength == label) & (strength != 0), 1.0, agrees).astype(strength.dtype)


def two_order_strengths(second_is_better: Float[Array, "*batch G G"]) -> Float[Array, "*batch G G"]:
    """Strengths freed of the judge's liking for the first place or the second.

        dᵢⱼ = (sⱼᵢ - sᵢⱼ)/2

    Args:
      second_is_better: sᵢⱼ, the verdict where i was shown first and j second: by how much j is better. The diagonal
        does not matter; an unread verdict is 0.

    Returns: by how much i is better than j; antisymmetric, 0 on the diagonal.
    Raises: InputError where the last two axes differ.
    Range: linear. A number added to all verdicts, a liking for one place, drops out.
    Relatives: the antisymmetric part, as in `two_input_probability`. (From one order alone, dᵢⱼ = -sᵢⱼ above the
      diagonal, the liking stays, and antisymmetry hides it.)
    Source: derived; the matrix of Hong et al., "Think-RM", 2025 (arXiv:2505.16265), whose code asks in one order.
    """
    strengths = _square("two_order_strengths", second_is_better)
    return (jnp.swapaxes(strengths, -1, -2) - strengths) / 2


def strength_advantages(
    strengths: Float[Array, "*batch G G"], *, epsilon: Scalar = 1e-6
) -> Float[Array, "*batch G"]:
    """Advantages of a group straight from comparisons within it, without a reward of any one completion.

        Aᵢ = (1/G Σⱼ dᵢⱼ) / √(Σᵢⱼ dᵢⱼ²/(2G(G - 1)) + ε)

    Args:
      strengths: dᵢⱼ, by how much the judge finds i better than j; antisymmetric, 0 on the diagonal and where no
        verdict could be read. `two_order_strengths` makes them.
      epsilon: ε ≥ 0, squared units of strength.

    Returns: advantages without unit, of sum 0; 0 in a group of one, and where all are tied.
    Raises: InputError where the last two axes differ.
    Range: at most (G - 1)/√G in size whatever the strengths. A judge that contradicts itself in cycles only shrinks
      them.
    Relatives: `returns.grpo_advantages` of rewards where dᵢⱼ = rᵢ - rⱼ, up to the place of ε.
    Elsewhere: the released code of the binary judge divides verdicts by the length of its text, thousands of
      characters, so that ε wins and advantages shrink by about six: scale to order one first.
    Source: Hong et al., "Think-RM: Enabling Long-Horizon Reasoning in Generative Reward Models", 2025
      (arXiv:2505.16265).
    """
    strengths = _square("strength_advantages", strengths)
    size = strengths.shape[-1]
    variance = jnp.sum(strengths**2, axis=(-1, -2)) / max(2 * size * (size - 1), 1) + epsilon
    scale = jnp.sqrt(jnp.where(variance == 0, 1.0, variance))
    return jnp.mean(strengths, axis=-1) / scale[..., None]


def _square(function: str, strengths: Shaped[Array, "..."]) -> Float[Array, "..."]:
    if jnp.ndim(strengths) < 2 or jnp.shape(strengths)[-1] != jnp.shape(strengths)[-2]:
        refuse(
            function, f"the matrix has shape {jnp.shape(strengths)}",
            "every completion of a group against every other: […, G, G]", "Index or reshape first.",
        )  # fmt: skip
    (strengths,) = aligned(function, strengths=strengths)
    return strengths
