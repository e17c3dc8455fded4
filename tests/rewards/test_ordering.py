"""Orders and order statistics from bits, against NumPy's sorts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prefjax.rewards.ordering import argsort, kth_smallest

# Numbers below 1e-38 count as 0 on some machines.
FLOATS = st.floats(width=32, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0])
in_order, at_place = jax.jit(argsort), jax.jit(kth_smallest)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (2, 9), elements=FLOATS))
def test_argsort_is_stable_and_numpys(values):
    np.testing.assert_array_equal(in_order(values), np.argsort(values, axis=-1, kind="stable"))


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 70_000])
def test_argsort_of_any_number(count):
    values = np.random.default_rng(count).choice(np.float32([-2.5, 0.0, 1e-30, 7.0]), size=count)
    values[::3] = np.random.default_rng(0).normal(size=len(values[::3]))
    np.testing.assert_array_equal(argsort(jnp.asarray(values)), np.argsort(values, kind="stable"))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (3, 4), elements=FLOATS), st.integers(0, 11))
def test_kth_smallest_is_that_of_a_sort(values, k):
    np.testing.assert_array_equal(at_place(values, k), np.sort(values, axis=None)[k])


def test_float64_and_vmap():
    with jax.enable_x64(True):
        values = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50)))
        assert values.dtype == jnp.float64
        np.testing.assert_array_equal(argsort(values), np.argsort(values, axis=-1))
        assert kth_smallest(values, 70) == np.sort(np.asarray(values), axis=None)[70]
    rows = jnp.asarray(values, jnp.float32)
    np.testing.assert_array_equal(
        jax.vmap(lambda row: kth_smallest(row, 3))(rows), np.sort(rows, axis=-1)[:, 3]
    )


def test_no_gradient():
    assert not jax.grad(lambda x: kth_smallest(x, 1))(jnp.asarray([3.0, 1.0, 2.0])).any()
