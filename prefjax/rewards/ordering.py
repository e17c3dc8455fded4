"""Order by the bits of floats: XLA sorts whole numbers on a CPU five times as fast, and counting needs no sort at all.

For files of this room and of `losses` alone. Anything but float32 goes the usual way.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from prefjax.types import Scalar

_SIGN = np.uint32(2**31)


def argsort(values: Float[Array, "*batch N"]) -> Int[Array, "*batch N"]:
    """The order of the last axis, smallest first; equal values keep theirs. 0 and -0 are equal, nan is last."""
    count = values.shape[-1]
    index_bits = max(1, (count - 1).bit_length())
    if values.dtype != jnp.float32 or index_bits > 24:
        return jnp.argsort(values, axis=-1)
    # Whole numbers that hold some digits of the key, and behind them the place: by digits, the least first.
    place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.uint32), values.shape)
    keys, order, digit_bits = _keys(values), place, 32 - index_bits
    for low in range(0, 32, digit_bits):
        digits = (keys >> low) & np.uint32(2**digit_bits - 1)
        digits = jnp.take_along_axis(digits, order.astype(jnp.int32), axis=-1)
        moved = jnp.sort((digits << index_bits) | place, axis=-1) & np.uint32(2**index_bits - 1)
        order = jnp.take_along_axis(order, moved.astype(jnp.int32), axis=-1)
    return order.astype(jnp.int32)


def kth_smallest(values: Float[Array, "..."], k: Scalar) -> Float[Array, ""]:
    """Of all values of an array, that of place k, counted from 0, without a gradient; nan counts as largest.

    Which float has how many below it is asked once for each of its bits.
    """
    values = jax.lax.stop_gradient(jnp.reshape(values, -1))
    if values.dtype != jnp.float32:
        return jnp.sort(values)[k]
    keys = _keys(values)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jnp.sum(keys <= middle, dtype=jnp.int32) > k
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low, _ = jax.lax.fori_loop(0, 32, halve, (jnp.uint32(0), jnp.uint32(2**32 - 1)))
    return _values(low)


def _keys(values):
    """Whole numbers in the order of the values."""
    # One kind of zero, and of nan.
    values = jnp.where(values == 0, 0.0, jnp.where(jnp.isnan(values), jnp.nan, values))
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return jnp.where(bits < _SIGN, bits + _SIGN, ~bits)


def _values(keys):
    bits = jnp.where(keys >= _SIGN, keys - _SIGN, ~keys)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
