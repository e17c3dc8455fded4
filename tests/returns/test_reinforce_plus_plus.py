"""REINFORCE++: by hand, padding that changes nothing, and what whitening does to a group's baseline."""

import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.returns import (
    dr_grpo_advantages,
    reinforce_plus_plus_advantages,
    reinforce_plus_plus_baseline_advantages,
)

MASK = jnp.float32([[1, 1, 1, 0], [1, 1, 0, 0]])
REWARDS = jnp.float32([[-0.1, 0.0, 1.0, 0], [0.0, -0.5, 0, 0]])


def by_hand(returns):
    return (returns - returns.mean()) / returns.std(ddof=1)


@pytest.mark.parametrize("garbage", [0.0, 1e6, np.nan])
def test_returns_to_go_whitened_over_all_tokens(garbage):
    rewards = jnp.where(MASK == 1, REWARDS, garbage)
    discounts = jnp.where(MASK == 1, 0.5, garbage)
    found = reinforce_plus_plus_advantages(rewards, discounts, MASK)
    returns = np.array([-0.1 + 0.5 * 0.5, 0.5, 1.0, -0.25, -0.5])
    np.testing.assert_allclose(found[MASK == 1], by_hand(returns), rtol=1e-5)
    np.testing.assert_array_equal(found[MASK == 0], 0.0)


def test_the_baseline_variant_counts_tokens():
    groups = jnp.float32([[1, 0], [0.5, jnp.nan]])
    mask = jnp.float32([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]])
    found = reinforce_plus_plus_baseline_advantages(groups, mask)
    # Tokens that are learned from: .5 three times, -.5 once, 0 twice (one reward is alone).
    written = by_hand(np.array([0.5, 0.5, 0.5, -0.5, 0, 0]))
    np.testing.assert_allclose(found[0][mask[0] == 1], written[:4], rtol=1e-5)
    np.testing.assert_allclose(found[1, 0, :2], written[4:], rtol=1e-5)
    np.testing.assert_array_equal(found[1, 1], 0.0)


def test_samples_of_one_length_are_scaled_by_the_batch():
    groups = jnp.float32([[1, 0, 0.5, 0], [1, 1, 0, 1]])
    found = reinforce_plus_plus_baseline_advantages(groups, jnp.ones((2, 4, 3)), ddof=0)
    centred = dr_grpo_advantages(groups)
    np.testing.assert_allclose(found[..., 1], centred / jnp.std(centred), rtol=1e-5)
    np.testing.assert_array_equal(
        reinforce_plus_plus_baseline_advantages(jnp.full((2, 1), 3.0), jnp.ones((2, 1, 2))), 0.0
    )
