"""Best-of-n: no training; of n completions keep the one that the judge prefers to the others."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree


def round_robin(judge: Callable, judge_params: PyTree, candidates: dict) -> Float[Array, "n n B"]:
    """P[i, j, b] = P(yᵢ ≻ yⱼ | x_b), every unordered pair judged once; the diagonal is 1/2.

    Args:
      judge: `params, rows, rows -> [B]`, with P + Pᵀ = 1.
      candidates: rows whose leaves are [n, B, ...]: n completions of each of B prompts.
    """
    n = candidates["lengths"].shape[0]
    first, second = jnp.triu_indices(n, k=1)

    def one(pair):
        left = jax.tree.map(lambda leaf: leaf[pair[0]], candidates)
        right = jax.tree.map(lambda leaf: leaf[pair[1]], candidates)
        return judge(judge_params, left, right)

    upper = jax.lax.map(one, (first, second))
    table = jnp.full((n, n, upper.shape[-1]), 0.5).at[first, second].set(upper)
    return table.at[second, first].set(1.0 - upper)


def best_of_n(preferences: Float[Array, "n n B"]) -> Int[Array, " B"]:
    """The Borda winner among the n: the completion with the largest mean preference over the others."""
    return jnp.argmax(jnp.mean(preferences, axis=1), axis=0)
