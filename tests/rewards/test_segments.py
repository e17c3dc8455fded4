"""Dense rewards: the six tokens of the paper's question answering, with their price of KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.returns import generalized_advantage_estimation, whitened
from prefjax.rewards import kl_shaped_rewards, segment_rewards

MASK = jnp.ones(6)
LOGPS = jnp.float32([-1, -0.5, -2, -0.1, -0.7, -0.3])
REFERENCE = jnp.float32([-1.2, -0.4, -1.5, -0.1, -1, -0.2])


def rewards():
    completeness = 0.3 * (3.0 + 0.446777) / 8.301161
    assert completeness == pytest.approx(0.124565, abs=1e-6)
    relevance = segment_rewards(jnp.float32([0.3, -0.3]), jnp.asarray([2, 5]), jnp.ones(2), MASK)
    factuality = segment_rewards(jnp.float32([0.5]), jnp.asarray([5]), jnp.ones(1), MASK)
    whole = segment_rewards(jnp.float32([completeness]), jnp.asarray([5]), jnp.ones(1), MASK)
    return relevance + factuality + whole


def test_the_written_example():
    raw = rewards()
    np.testing.assert_allclose(raw, [0, 0, 0.3, 0, 0, 0.324565], atol=6e-7)
    priced = raw + kl_shaped_rewards(jnp.float32(0), LOGPS, REFERENCE, MASK, beta=0.3)
    np.testing.assert_allclose(priced, [-0.06, 0.03, 0.45, 0, -0.09, 0.354565], atol=6e-7)
    assert float(priced.sum()) == pytest.approx(0.684565, abs=1e-6)
    values = jnp.float32([0.1, 0.2, 0, 0.3, 0.1, 0, 0])
    advantages = generalized_advantage_estimation(priced, values, jnp.ones(6), lambda_=0.95)
    expected = [0.503499, 0.487894, 0.692520, -0.060505, 0.146837, 0.354565]
    np.testing.assert_allclose(advantages, expected, atol=1e-6)
    # The authors' code multiplies by σ^-1/2 and not by 1/σ: (.299813, .268489, …).
    expected = [0.601802, 0.538927, 1.363383, -1.670622, -0.835223, 0.001732]
    np.testing.assert_allclose(whitened(advantages, MASK, ddof=0), expected, atol=5e-6)
    np.testing.assert_array_equal(
        jax.grad(lambda s: segment_rewards(s, jnp.asarray([2, 5]), jnp.ones(2), MASK) @ jnp.arange(6.0))(
            jnp.float32([0.3, -0.3])
        ),
        [2.0, 5.0],
    )


def test_two_ends_on_one_token_add_and_ends_behind_the_text_count_for_its_last_token():
    scores, ends = jnp.float32([[1.0, 2.0, 4.0]] * 3), jnp.asarray([[1, 1, 3], [0, 5, 9], [0, 1, 2]])
    mask = jnp.asarray(np.arange(6) < np.array([[6], [4], [0]]))
    found = segment_rewards(scores, ends, jnp.ones((3, 3)), mask)
    np.testing.assert_array_equal(found[0], [0, 3, 0, 4, 0, 0])
    np.testing.assert_array_equal(found[1], [1, 0, 0, 6, 0, 0])  # an assignment would lose one
    np.testing.assert_array_equal(found[2], 0.0)


def test_segments_that_are_not_there_may_hold_anything():
    scores, ends = jnp.float32([1.0, np.nan]), jnp.asarray([1, 3])
    present = jnp.asarray([1, 0])
    np.testing.assert_array_equal(segment_rewards(scores, ends, present, MASK), [0, 1, 0, 0, 0, 0])
    slope = jax.grad(lambda s: segment_rewards(s, ends, present, MASK).sum())(scores)
    np.testing.assert_array_equal(slope, [1.0, 0.0])
    np.testing.assert_array_equal(segment_rewards(scores, ends, jnp.zeros(2), MASK), 0.0)


def test_one_segment_is_a_terminal_reward():
    mask = jnp.asarray(np.arange(6) < np.array([[6], [4], [1]]))
    scores = jnp.float32([1.5, -2.0, 0.5])
    ends = mask.sum(axis=-1, keepdims=True) - 1
    zeros = jnp.zeros((3, 6))
    np.testing.assert_array_equal(
        segment_rewards(scores[:, None], ends, jnp.ones((3, 1)), mask),
        kl_shaped_rewards(scores, zeros, zeros, mask, beta=0.0),
    )
