"""Ensembles: written numbers, order of the three, members that are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.rewards import mean_reward, uncertainty_weighted_reward, worst_case_reward

SCORES = jnp.float32([1.0, 1.2, 0.8, 1.5, 0.5])
ENSEMBLES = arrays(np.float32, (4, 5), elements=st.floats(-100, 100, width=32))


def test_written_numbers_and_gradients():
    assert float(mean_reward(SCORES)) == pytest.approx(1.0, rel=1e-6)
    assert float(worst_case_reward(SCORES)) == 0.5
    assert float(uncertainty_weighted_reward(SCORES, coefficient=0.5)) == pytest.approx(0.942, abs=1e-6)
    sample = uncertainty_weighted_reward(SCORES, coefficient=0.5, ddof=1)
    assert float(sample) == pytest.approx(0.9275, abs=1e-6)
    np.testing.assert_array_equal(jax.grad(worst_case_reward)(SCORES), [0, 0, 0, 0, 1])
    slope = jax.grad(lambda s: uncertainty_weighted_reward(s, coefficient=0.5))(SCORES)
    np.testing.assert_allclose(slope, 0.2 - 0.5 * 2 / 5 * (SCORES - 1), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ENSEMBLES, st.floats(0, 5, width=32))
def test_pessimists_are_below_the_mean_and_free_uncertainty_is_it(scores, coefficient):
    scores = jnp.asarray(scores)
    mean = np.asarray(mean_reward(scores))
    assert np.all(np.asarray(worst_case_reward(scores)) <= mean + 1e-4)
    assert np.all(np.asarray(uncertainty_weighted_reward(scores, coefficient=coefficient)) <= mean)
    np.testing.assert_array_equal(uncertainty_weighted_reward(scores, coefficient=0.0), mean)
    same = jnp.broadcast_to(scores[:, :1], scores.shape)
    for one in (
        mean_reward(same),
        worst_case_reward(same),
        uncertainty_weighted_reward(same, coefficient=2.0),
    ):
        np.testing.assert_allclose(one, scores[:, 0], rtol=1e-5, atol=1e-5)


def test_members_that_are_nan_take_no_part():
    scores = jnp.float32([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [2.0, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_reward(scores), [2.0, np.nan, 2.0])
    np.testing.assert_array_equal(worst_case_reward(scores), [1.0, np.nan, 2.0])
    for ddof, first in ((0, 1.0), (1, 0.0)):  # variances 1 and 2
        found = uncertainty_weighted_reward(scores, coefficient=1.0, ddof=ddof)
        np.testing.assert_array_equal(found, [first, np.nan, 2.0])
    slope = jax.grad(lambda s: jnp.nansum(uncertainty_weighted_reward(s, coefficient=1.0)))(scores)
    assert np.all(np.isfinite(slope))
