"""The recurrence against a Python loop, and under every transformation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from prefjax.returns import linear_recurrence


def draw(shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.uniform(keys[0], shape, dtype),
        jax.random.normal(keys[1], shape, dtype),
        jax.random.normal(keys[2], shape[:-1], dtype),
    )


def loop(a, b, final):
    a, b, x = (np.asarray(z, np.float64) for z in (a, b, final))
    found = []
    for t in reversed(range(a.shape[-1])):
        x = a[..., t] * x + b[..., t]
        found.append(x)
    return np.stack(found[::-1], axis=-1)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 4)])
def test_is_the_loop_at_any_batch_shape(shape):
    with jax.enable_x64(True):
        arrays = draw(shape, jnp.float64)
        np.testing.assert_allclose(linear_recurrence(*arrays), loop(*arrays), rtol=1e-13)


def test_a_zero_cuts_also_what_is_infinite_no_further_than_its_own_step():
    x = linear_recurrence(jnp.float32([1, 0, 1]), jnp.float32([1, 2, 3]), jnp.float32(100))
    np.testing.assert_array_equal(x, [3, 2, 103])


def test_bfloat16_is_summed_in_float32():
    ones = jnp.ones(1000, jnp.bfloat16)
    x = linear_recurrence(ones, ones, jnp.zeros((), jnp.bfloat16))
    assert x.dtype == jnp.float32
    assert float(x[0]) == 1000.0


def test_gradients_are_those_of_differences():
    with jax.enable_x64(True):
        arrays = draw((4,), jnp.float64)
        # `jax.test_util` is not needed for one function: central differences of a weighted sum.
        weights = jnp.arange(1.0, 5.0)

        def total(*arrays):
            return jnp.sum(weights * linear_recurrence(*arrays))

        for i, gradient in enumerate(jax.grad(total, argnums=(0, 1, 2))(*arrays)):
            for at in np.ndindex(arrays[i].shape):
                moved = [total(*arrays[:i], arrays[i].at[at].add(h), *arrays[i + 1 :]) for h in (1e-6, -1e-6)]
                np.testing.assert_allclose(gradient[at], (moved[0] - moved[1]) / 2e-6, rtol=1e-7, atol=1e-8)


def test_every_transformation_agrees():
    arrays = draw((8, 6))
    expected = linear_recurrence(*arrays)
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda *arrays: linear_recurrence(*arrays), n=1))
    traced(*arrays)
    np.testing.assert_allclose(traced(*arrays), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(linear_recurrence)(*arrays), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.pmap(linear_recurrence)(*arrays), expected, rtol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(linear_recurrence, mesh=mesh, in_specs=split, out_specs=split))
    np.testing.assert_allclose(sharded(*arrays), expected, rtol=1e-6)
