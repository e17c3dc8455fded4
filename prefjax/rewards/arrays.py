"""What scores and losses ask of their arrays first: one shape, and at least float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.types import Scalar


def aligned(function: str, **arrays: Shaped[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    """The arrays, in order, all of the same shape, in float32 or wider; masks and labels may come as integers.

    Shapes are known when a function is traced, so under `jit` this costs nothing. Without it (B, 1) against
    (B,) would become (B, B) in silence, and B losses would become B².
    """
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        refuse(function, got, "one shape for all, so that none is broadcast", "Index or reshape first.")
    return tuple(_wide(array) for array in arrays.values())


def one_each(value: Scalar | Float[Array, "..."], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """A scalar repeated once for every element of `like`; an array as it is, for `aligned` to look at."""
    return jnp.full(jnp.shape(like), value) if jnp.ndim(value) == 0 else jnp.asarray(value)


def rounded_down(x: Shaped[Array, ""] | Scalar) -> Shaped[Array, ""]:
    """⌊x⌋ of a share of a number, which rounding may have left just below the whole number that it is."""
    return jnp.floor(jnp.asarray(x, jnp.float32) * (1 + 1e-6)).astype(int)


def _wide(array: Shaped[Array, "*any"]) -> Float[Array, "*any"]:
    # bfloat16 keeps two to three digits, and log-probabilities of hundreds of nats are to be subtracted.
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))
