"""Value drift: written numbers and a policy that a reward moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.rewards import drift_distance, drift_time, value_drift

TRAJECTORY = jnp.float32([0.20, 0.30, 0.42, 0.49, 0.50, 0.505])


def test_written_numbers_and_a_gradient():
    before, after = jnp.float32([0.2, 0.5, 0.3]), jnp.float32([0.5, 0.3, 0.2])
    np.testing.assert_allclose(value_drift(before, after), [0.3, -0.2, -0.1], atol=1e-7)
    assert float(drift_distance(before, after)) == pytest.approx(0.3, abs=1e-6)
    np.testing.assert_array_equal(jax.grad(drift_distance, argnums=1)(before, after), [0.5, -0.5, -0.5])
    np.testing.assert_array_equal(jax.grad(drift_distance, argnums=1)(before, before), 0.0)
    assert float(drift_time(TRAJECTORY)) == pytest.approx(0.6)
    assert float(drift_time(1 - TRAJECTORY)) == pytest.approx(0.6)  # downwards as well


def test_a_stance_that_hardly_moves_has_no_time():
    assert np.isnan(drift_time(jnp.float32([0.5, 0.515, 0.51])))
    assert float(drift_time(jnp.float32([0.5, 0.515, 0.51]), least=0.01)) == pytest.approx(0.5)
    assert np.isnan(drift_time(jnp.float32([0.5])))
    # There and back: the extreme is in the middle.
    assert float(drift_time(jnp.float32([0.5, 0.9, 0.5, 0.5, 0.4]))) == pytest.approx(0.25)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (2, 3), elements=st.floats(0.0625, 1, width=32)))
def test_distributions_drift_by_as_much_as_they_gain(weights):
    before, after = jnp.asarray(weights / weights.sum(axis=-1, keepdims=True))
    drift = value_drift(before, after)
    assert float(drift.sum()) == pytest.approx(0.0, abs=1e-6)
    gained = np.clip(np.asarray(drift), 0, None).sum()
    assert float(drift_distance(before, after)) == pytest.approx(gained, abs=1e-6)
    assert float(drift_distance(before, after)) >= np.abs(drift).max() - 1e-6


@pytest.mark.parametrize(("beta", "support"), [(0.1, 0.799818), (1.0, 0.204610), (10.0, 0.016481)])
def test_the_drift_of_a_regularised_optimum(beta, support):
    start = jnp.float32([0.2, 0.6, 0.2])
    end = jax.nn.softmax(jnp.log(start) + jnp.float32([1, 0, 0]) / beta)
    assert float(value_drift(start, end)[0]) == pytest.approx(support, abs=2e-6)
    if beta == 1.0:
        np.testing.assert_allclose(end, [0.404610, 0.446543, 0.148848], atol=1e-6)
