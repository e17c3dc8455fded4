"""Whitening: written numbers, padding that changes nothing, and what has no scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.returns import whitened


def test_written_numbers_and_the_biased_deviation():
    advantages = jnp.float32([0.4374625, 0.56575, 0.385, 0.3])
    written = [0.13846187, 1.29119691, -0.33294308, -1.0967157]
    np.testing.assert_allclose(whitened(advantages, jnp.ones(4)), written, atol=2e-5)
    biased = whitened(advantages, jnp.ones(4), ddof=0)
    np.testing.assert_allclose(biased, np.array(written) * (4 / 3) ** 0.5, atol=2e-5)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
def test_padding_changes_nothing_and_is_zero(garbage):
    values = jax.random.normal(jax.random.key(0), (4, 6)) * 3 + 5
    mask = jnp.asarray(np.arange(6) < np.array([[6], [2], [0], [5]]))
    found = whitened(jnp.where(mask, values, garbage), mask)
    np.testing.assert_allclose(found[mask], whitened(values[mask], jnp.ones(13)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[~mask], 0.0)
    assert float(found[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found[mask].std(ddof=1)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_equal_values_one_value_and_none_are_zero(count):
    mask = jnp.arange(6) < count
    np.testing.assert_array_equal(whitened(jnp.full(6, 0.1), mask), 0.0)


def test_every_transformation():
    values, mask = jax.random.normal(jax.random.key(1), (8, 4)), jnp.ones((8, 4))
    expected = whitened(values, mask)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put((values, mask), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(jax.jit(whitened)(*placed), expected, rtol=1e-5, atol=1e-6)
    rows = jax.vmap(whitened)(values, mask)
    np.testing.assert_allclose(rows[2], whitened(values[2], mask[2]), rtol=1e-5, atol=1e-6)
    assert whitened(values.astype(jnp.bfloat16), mask).dtype == jnp.float32
    assert np.all(np.isfinite(jax.grad(lambda v: (whitened(v, mask) ** 3).sum())(jnp.zeros((8, 4)))))


def test_equal_values_are_zero_without_epsilon():
    ones = jnp.ones((2, 3))
    np.testing.assert_array_equal(whitened(ones, ones, epsilon=0.0), 0)
    gradient = jax.grad(lambda v: whitened(v, ones, epsilon=0.0).sum())(ones)
    assert np.all(np.isfinite(gradient))
