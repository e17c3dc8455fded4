"""Several rewards a sample: written numbers, what each order hears, and rewards that are nan."""

import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.returns import (
    gdpo_advantages,
    gdpo_scores,
    grpo_advantages,
    reward_standard_deviation,
)

REWARDS = jnp.stack([jnp.float32([1, 0, 1, 0]), jnp.float32([0.9, 0.8, 0.7, 0.6])], axis=-1)
ONES = jnp.ones(2)


def gdpo(rewards, weights=ONES):
    scores = gdpo_scores(rewards, weights)
    return gdpo_advantages(scores, reward_standard_deviation(scores))


def test_written_numbers():
    summed = grpo_advantages(REWARDS @ ONES)
    np.testing.assert_allclose(summed, [1.00681969, -0.69702902, 0.69702902, -1.00681969], atol=2e-6)
    scores = gdpo_scores(REWARDS, ONES)
    np.testing.assert_allclose(scores, [2.02687113, -0.47887686, 0.47887686, -2.02687113], atol=2e-6)
    np.testing.assert_allclose(gdpo(REWARDS), [1.19185933, -0.28159356, 0.28159356, -1.19185933], atol=2e-6)


def test_one_reward_is_grpo_and_no_scale_is_heard():
    np.testing.assert_allclose(
        gdpo_scores(REWARDS[:, :1], jnp.ones(1)), grpo_advantages(REWARDS[:, 0]), atol=1e-6
    )
    louder = gdpo_scores(REWARDS * jnp.float32([[1000.0, 1.0]]), ONES, epsilon=0.0)
    np.testing.assert_allclose(louder, gdpo_scores(REWARDS, ONES, epsilon=0.0), atol=1e-5)
    # Two rewards that cancel: added first there is nothing to learn.
    opposed = jnp.stack([REWARDS[:, 0], 10 - REWARDS[:, 0]], axis=-1)
    np.testing.assert_array_equal(grpo_advantages(opposed @ ONES), 0.0)
    assert np.abs(gdpo_scores(opposed, jnp.float32([2.0, 1.0]))).min() > 0.5


def test_rewards_that_are_nan_add_nothing():
    rewards = REWARDS.at[1, 0].set(jnp.nan).at[3].set(jnp.nan)
    scores = gdpo_scores(rewards, ONES)
    assert np.isnan(scores[3])
    assert np.isfinite(scores[:3]).all()
    first = grpo_advantages(rewards[:, 0])
    np.testing.assert_allclose(scores[0] - grpo_advantages(rewards[:, 1])[0], first[0], atol=1e-6)
    assert float(gdpo(rewards)[3]) == 0.0
    np.testing.assert_array_equal(gdpo(jnp.full((2, 1, 2), 3.0)), 0.0)  # groups of one
    np.testing.assert_array_equal(gdpo(jnp.full((2, 3, 2), 0.1)), 0.0)


def test_a_missing_weight_is_refused():
    with pytest.raises(ValueError, match=r"gdpo_scores: rewards has shape \(4, 2\), weights \(3,\)"):
        gdpo_scores.__wrapped__(REWARDS, jnp.ones(3))
