"""Trust in a judge of thinking, and rewards of thoughts: numbers worked by hand, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.returns import grpo_advantages
from prefjax.rewards import thought_advantages, thought_rewards, trust_grpo_rewards, trust_weight

OUTCOMES = jnp.float32([1, 1, 0, 0, 1, 0, 0, 0])
THINKING = jnp.float32([0.6, 0.4, 0.9, 0.7, 0.5, 0.8, 0.3, 0.3])


def test_trust_by_hand():
    assert float(trust_weight(OUTCOMES, THINKING)) == pytest.approx(0.904837, abs=1e-6)
    for right, wrong, weight in (
        (0.5, 0.7, 0.818731),
        (0.2, 0.8, 0.548812),
        (0.7, 0.5, 1.0),
        (0.5, 0.5, 1.0),
    ):
        found = trust_weight(jnp.float32([1, 0]), jnp.float32([right, wrong]))
        assert float(found) == pytest.approx(weight, abs=1e-6)
    # All right, or all wrong: there is nothing to mistrust the judge for.
    both = jnp.stack([jnp.ones(3), jnp.zeros(3)])
    np.testing.assert_array_equal(trust_weight(both, jnp.full((2, 3), 0.9)), 1.0)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.271451), (0.5, 0.164643), (1.0, 0.099861)])
def test_the_share_of_thinking_fades(progress, share):
    found = jax.jit(trust_grpo_rewards)(OUTCOMES, THINKING, progress)
    np.testing.assert_allclose(found, OUTCOMES + share * THINKING, atol=1e-6)


def test_advantages_of_trust_grpo():
    rewards = trust_grpo_rewards(OUTCOMES, THINKING, 0.0)
    written = [1.252716, 1.145643, -0.558899, -0.665971, 1.199180, -0.612435, -0.880116, -0.880116]
    np.testing.assert_allclose(grpo_advantages(rewards, epsilon=0.0), written, atol=2e-6)
    alone = grpo_advantages(OUTCOMES, epsilon=0.0)
    for thinking, alpha in ((jnp.full(8, 0.7), 0.3), (THINKING, 0.0)):
        found = grpo_advantages(trust_grpo_rewards(OUTCOMES, thinking, 0.3, alpha=alpha), epsilon=0.0)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_thoughts_by_hand():
    labels, mask = jnp.float32([[1, 0, 1, 0, 1], [1, 0, 1, 0, 7]]), jnp.float32([[1] * 5, [1] * 4 + [0]])
    outcome, right = jnp.float32([1.207615, -0.724569]), jnp.array([True, False])
    found = thought_advantages(labels, outcome, right, mask, strength=0.1875)
    written = [[1.207615, 1.020115, 1.207615, 1.020115, 1.207615], [0, -0.724569, 0, -0.724569, 0]]
    np.testing.assert_allclose(found, written, atol=1e-6)


@given(st.integers(1, 6), st.booleans(), st.floats(0.125, 4, width=16), st.floats(0, 1, width=16))
@settings(max_examples=30, deadline=None)
def test_rewards_from_a_thought_on_are_its_advantage(count, right, size, strength):
    """For merged thoughts: labels alternate, and the last is the answer's."""
    last = 1 if right else 0
    labels = np.array([(last + count - 1 - k) % 2 for k in range(count)] + [9] * (6 - count), np.float32)
    mask = np.float32(np.arange(6) < count)
    arguments = (
        jnp.asarray(labels),
        jnp.float32(size if right else -size),
        jnp.asarray(right),
        jnp.asarray(mask),
    )
    rewards = THOUGHTS[0](*arguments, strength=strength)
    to_go = jnp.cumsum(rewards[::-1])[::-1] * mask
    np.testing.assert_allclose(to_go, THOUGHTS[1](*arguments, strength=strength), atol=2e-6)


THOUGHTS = jax.jit(thought_rewards), jax.jit(thought_advantages)


def test_a_group_of_right_answers_still_teaches_about_detours():
    found = thought_advantages(
        jnp.float32([1, 0, 1]), jnp.float32(0.0), jnp.array(True), jnp.ones(3), strength=0.5
    )
    np.testing.assert_array_equal(found, [0, -0.5, 0])


def test_wrong_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"thought_rewards: outcome_advantage has shape \(3,\)"):
        thought_rewards.__wrapped__(
            jnp.ones((2, 3)), jnp.ones(3), jnp.ones(3), jnp.ones((2, 3)), strength=1.0
        )
