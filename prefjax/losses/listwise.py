"""Losses on lists: several completions of a prompt, ranked."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned


def plackett_luce_loss(
    scores: Float[Array, "*batch K"], mask: Shaped[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Maximum likelihood of a ranking under the model of Plackett and Luce.

        loss = -Σₖ [sₖ - log Σⱼ₌ₖ^K exp sⱼ],   best first

    The best is drawn by a softmax of the scores, then the best of the rest, and so on. Two completions: this is
    `bradley_terry_loss` of their scores, and `dpo_loss` where s = β(log π(y|x) - log π₀(y|x)). Only
    differences of scores count.

    Args:
      scores: sₖ of K completions of one prompt, the best one first: rewards, or β times log-ratios.
      mask: 1 where there is a completion, 0 where a shorter list has none; absent ones may stand anywhere.

    Returns: a loss in nats for each list; log K! where the scores are equal, 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Source: Plackett, "The Analysis of Permutations", 1975; Rafailov et al., "Direct Preference Optimization",
      2023, eq. 20 (arXiv:2305.18290).
    """
    scores, mask = aligned("plackett_luce_loss", scores=scores, mask=mask)
    present = mask != 0
    # The least finite number, not -inf, whose differences would be nan in the gradient.
    absent = jnp.finfo(scores.dtype).min
    rest = jax.lax.cumlogsumexp(jnp.where(present, scores, absent), axis=scores.ndim - 1, reverse=True)
    return jnp.sum(jnp.where(present, rest - scores, 0.0), axis=-1)
