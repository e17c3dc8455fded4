"""Scores of steps: written numbers, order of the four, empty solutions, progress that telescopes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.rewards import (
    last_step_score,
    mean_step_score,
    min_step_score,
    product_step_score,
    progress_rewards,
)

ALL = (min_step_score, last_step_score, product_step_score, mean_step_score)
P = jnp.float32([0.9, 0.8, 0.7])


def test_written_numbers_and_gradients():
    ones = jnp.ones(3)
    found = [float(score(P, ones)) for score in ALL]
    assert found == pytest.approx([0.7, 0.7, 0.504, 0.8], rel=1e-6)
    np.testing.assert_array_equal(jax.grad(min_step_score)(P, ones), [0, 0, 1])
    np.testing.assert_array_equal(jax.grad(last_step_score)(P, ones), [0, 0, 1])
    np.testing.assert_allclose(jax.grad(product_step_score)(P, ones), [0.56, 0.63, 0.72], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(mean_step_score)(P, ones), 1 / 3, rtol=1e-6)
    # A step that is surely wrong: the product's gradient is that of the others' product, no 0/0.
    zero = jax.grad(product_step_score)(jnp.float32([0.5, 0.0, 0.5]), ones)
    np.testing.assert_allclose(zero, [0.0, 0.25, 0.0], atol=1e-7)


@pytest.mark.parametrize("score", ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 7.0])
def test_what_the_mask_hides_may_be_anything_and_no_steps_are_nan(score, garbage):
    scores = jnp.float32([[0.9, 0.8, 0.7], [0.9, garbage, garbage], [garbage] * 3])
    mask = jnp.asarray([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    found = score(scores, mask)
    np.testing.assert_allclose(found[:2], [score(P, jnp.ones(3)), 0.9], rtol=1e-6)
    assert np.isnan(found[2])
    slope = jax.grad(lambda s: jnp.nansum(score(s, mask)))(scores)
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(np.where(mask, 0.0, slope), 0.0)


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32)),
    arrays(np.int32, (4,), elements=st.integers(1, 5)),
)
def test_the_order_of_the_four_and_a_single_step(scores, lengths):
    mask = jnp.asarray(np.arange(5) < lengths[:, None])
    scores = jnp.asarray(scores)
    least, last, product, mean = (np.asarray(score(scores, mask)) for score in ALL)
    assert np.all(product <= least + 1e-6)
    assert np.all(least <= last)
    assert np.all(least <= mean + 1e-6)
    one = jnp.zeros_like(scores).at[:, 0].set(1.0)
    for score in ALL:
        np.testing.assert_allclose(score(scores, one), scores[:, 0], rtol=1e-6)
    gains = progress_rewards(scores, mask, jnp.full(4, 0.5))
    np.testing.assert_allclose(gains.sum(axis=-1), last - 0.5, atol=1e-6)
    np.testing.assert_array_equal(np.where(mask, 0.0, gains), 0.0)


def test_progress_by_hand():
    toxicity = jnp.float32([[0.2, 0.6, 0.1, np.nan]])
    gains = progress_rewards(-toxicity, jnp.asarray([[1, 1, 1, 0]]), -jnp.float32([0.1]))
    np.testing.assert_allclose(gains, [[-0.1, -0.4, 0.5, 0.0]], atol=1e-7)
