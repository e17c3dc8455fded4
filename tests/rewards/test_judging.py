"""Verdicts: what a judge earns, and advantages that need no reward of any one completion."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.checks import InputError
from prefjax.returns import grpo_advantages
from prefjax.rewards import strength_advantages, two_order_strengths, verdict_reward

REWARDS = arrays(np.float32, (3, 4), elements=st.floats(-10, 10, width=32))


def antisymmetric(*upper):
    d = np.zeros((4, 4), np.float32)
    d[np.triu_indices(4, 1)] = upper
    return jnp.asarray(d - d.T)


def test_written_numbers():
    r = jnp.float32([1, 0, 2, -1])
    found = strength_advantages(r[:, None] - r[None])
    np.testing.assert_allclose(found, [0.387298, -0.387298, 1.161895, -1.161895], atol=1e-6)
    # The judge says by how much the second is better: 01:2, 02:3, 03:1, 12:1, 13:-1, 23:-2.
    d = -antisymmetric(2, 3, 1, 1, -1, -2)
    np.testing.assert_array_equal(-d.sum(axis=-1), [6, -2, -6, 2])
    np.testing.assert_allclose(strength_advantages(d), [-1.161895, 0.387298, 1.161895, -0.387298], atol=1e-6)
    order = antisymmetric(1, 1, 1, 1, 1, 1)
    expected = [1.060660, 0.353553, -0.353553, -1.060660]
    np.testing.assert_allclose(strength_advantages(order), expected, atol=1e-6)
    # Verdicts divided by 4,000 characters, as in the released code of a binary judge.
    drowned = strength_advantages(order / 4000)
    np.testing.assert_allclose(drowned, [0.184637, 0.061546, -0.061546, -0.184637], atol=1e-6)


def test_cycles_ties_and_a_group_of_one_have_no_advantage():
    cycle = jnp.float32([[0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    np.testing.assert_array_equal(strength_advantages(cycle), 0.0)
    np.testing.assert_array_equal(strength_advantages(jnp.zeros((2, 3, 3))), 0.0)
    np.testing.assert_array_equal(strength_advantages(jnp.zeros((3, 3)), epsilon=0.0), 0.0)
    np.testing.assert_array_equal(strength_advantages(jnp.zeros((2, 1, 1))), 0.0)


@settings(max_examples=30, deadline=None)
@given(
    REWARDS, st.floats(0.125, 8, width=32), arrays(np.float32, (3, 4, 4), elements=st.floats(-3, 3, width=32))
)
def test_of_differences_of_rewards_it_is_grpo_and_contradictions_only_shrink_it(rewards, scale, noise):
    rewards = jnp.asarray(rewards)
    d = rewards[:, :, None] - rewards[:, None, :]
    if np.all(np.std(rewards, axis=-1) > 1e-2):
        whole = strength_advantages(d, epsilon=0.0)
        np.testing.assert_allclose(whole, grpo_advantages(rewards, epsilon=0.0), atol=1e-4)
        np.testing.assert_allclose(strength_advantages(scale * d, epsilon=0.0), whole, atol=1e-4)
    d = two_order_strengths(jnp.asarray(noise))
    found = np.asarray(strength_advantages(d))
    np.testing.assert_allclose(found.sum(axis=-1), 0.0, atol=1e-5)
    assert np.abs(found).max() <= 3 / np.sqrt(4) + 1e-5
    # Σ d² = 2G Σ n² + cycles².
    numerator = np.asarray(d).mean(axis=-1)
    assert np.all((np.asarray(d) ** 2).sum(axis=(1, 2)) >= 8 * (numerator**2).sum(axis=-1) - 1e-4)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (3, 3), elements=st.floats(-3, 3, width=32)), st.floats(-2, 2, width=32))
def test_a_liking_for_one_place_drops_out(verdicts, liking):
    d = two_order_strengths(jnp.asarray(verdicts))
    np.testing.assert_allclose(two_order_strengths(jnp.asarray(verdicts) + liking), d, atol=1e-5)
    np.testing.assert_array_equal(d, -d.T)
    # Without a liking the verdicts of the two orders are opposite, and the first place is read with its sign.
    honest = np.triu(verdicts, 1) - np.triu(verdicts, 1).T
    np.testing.assert_allclose(two_order_strengths(jnp.asarray(honest)), -honest, atol=1e-6)


def test_what_a_verdict_earns():
    strength, label = jnp.float32([2, 1, -1, 0, -3, 3]), jnp.float32([2, 3, 3, 3, -3, -3])
    np.testing.assert_array_equal(verdict_reward(strength, label), [1, 0.5, 0, 0, 1, 0])
    np.testing.assert_array_equal(verdict_reward(strength, label, same_side=0.0), [1, 0, 0, 0, 1, 0])


def test_a_matrix_that_is_not_square_is_refused():
    for function in (strength_advantages, two_order_strengths):
        with pytest.raises(InputError, match=r"the matrix has shape \(2, 3\)"):
            function.__wrapped__(jnp.zeros((2, 3)))
