"""Whether two scores put the same things in the same order."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def rank_correlation(
    one: Float[Array, "*batch N"], other: Float[Array, "*batch N"]
) -> Float[Array, "*batch"]:
    """Spearman's correlation: Pearson's, of ranks; ties share their mean rank.

        ρ = Σᵢ (Rᵢ - R̄)(Sᵢ - S̄) / √(Σᵢ (Rᵢ - R̄)² Σᵢ (Sᵢ - S̄)²)

    Args:
      one: N scores.
      other: N other scores of the same things: lengths, a gold reward, another judge.

    Returns: ρ in [-1, 1]; nan where one of them is constant, holds a nan or has fewer than two.
    Raises: InputError where the shapes differ.
    Range: between -1 and 1, without gradient.
    Relatives: any increasing function of either changes nothing.
    Source: Spearman, "The Proof and Measurement of Association between Two Things", 1904.
    """
    one, other = aligned("rank_correlation", one=one, other=other)
    broken = jnp.any(jnp.isnan(one) | jnp.isnan(other), axis=-1)
    first, second = _centred_ranks(one), _centred_ranks(other)
    scale = jnp.sqrt(jnp.sum(first**2, axis=-1) * jnp.sum(second**2, axis=-1))
    return jnp.where(broken | (scale == 0), jnp.nan, jnp.sum(first * second, axis=-1) / scale)


def _centred_ranks(scores):
    """Average ranks less their mean, divided by N so that squares of large N stay exact enough."""
    scores = jax.lax.stop_gradient(scores)
    size, axis = scores.shape[-1], scores.ndim - 1
    order = jnp.argsort(scores, axis=-1)
    ordered = jnp.take_along_axis(scores, order, axis=-1)
    place = jax.lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    edge, differs = jnp.ones_like(ordered[..., :1], bool), ordered[..., 1:] != ordered[..., :-1]
    starts, ends = jnp.concatenate([edge, differs], axis=-1), jnp.concatenate([differs, edge], axis=-1)
    # Of a run of equal scores the first place and the last.
    first = jax.lax.cummax(jnp.where(starts, place, 0), axis=axis)
    last = jax.lax.cummin(jnp.where(ends, place, size), axis=axis, reverse=True)
    centred = ((first + last) - (size - 1)) / (2 * max(size, 1))
    return jnp.take_along_axis(centred, jnp.argsort(order, axis=-1), axis=-1).astype(scores.dtype)
