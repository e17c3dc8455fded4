"""Sums over examples whose gradient is taken in the forward pass, a few examples at a time.

The loss of an example needs that example's logits alone. So they are made once, and the gradient is taken while they
are there: a matrix product less than making them again in the backward pass, and never more than a few examples'
logits in memory. What is saved for the backward pass is the gradient itself, of which that pass takes a multiple.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_at_once(
    function: Callable[..., tuple[Float[Array, ""], PyTree]],
    size: int,
    hidden: Float[Array, "B *each"],
    weights: Float[Array, "V D"],
    rest: PyTree,
) -> tuple[Float[Array, ""], PyTree]:
    """Σ over pieces of `size` examples of `function(hidden, weights, rest) -> total, seen`.

    Only the sum is differentiated, and only in `hidden` and `weights`; the gradient through `seen` and `rest` is 0.

    Args:
      function: of the examples of one piece; `seen` are arrays with one row an example, to be looked at.
      size: examples at a time; it divides B. Static.
      hidden, rest: arrays [B, …]; `weights` are shared by all examples.

    Returns: the sum, and `seen` of all examples, [B, …].
    """
    pieces = _cut(size, (hidden, rest))
    totals, seen = jax.lax.map(lambda piece: function(piece[0], weights, piece[1]), pieces)
    return jnp.sum(totals), _joined(seen)


def _forward(function, size, hidden, weights, rest):
    differentiated = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)

    def one(carry, piece):
        total, weights_grad = carry
        (here, seen), (hidden_grad, more) = differentiated(piece[0], weights, piece[1])
        return (total + here, weights_grad + more.astype(jnp.float32)), (seen, hidden_grad)

    nothing = jnp.zeros(()), jnp.zeros(weights.shape, jnp.float32)
    (total, weights_grad), (seen, hidden_grad) = jax.lax.scan(one, nothing, _cut(size, (hidden, rest)))
    saved = _joined(hidden_grad), weights_grad.astype(weights.dtype)
    return (total, _joined(seen)), saved


def _backward(function, size, saved, cotangent):
    slope, _ = cotangent
    hidden_grad, weights_grad = (leaf * slope.astype(leaf.dtype) for leaf in saved)
    return hidden_grad, weights_grad, None


sum_at_once.defvjp(_forward, _backward)


def _cut(size: int, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), tree)


def _joined(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
