"""Weights of samples from somebody else: written numbers, tokens that were not scored, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    masked_importance_weights,
    off_policy_sequence_mask,
    ppo_clip_loss,
    truncated_importance_weights,
)

MASK = jnp.float32([[1, 1, 1], [1, 1, 0]])
OLD = jnp.float32([[-1.0, -0.5, -2.0], [-0.7, -1.2, 0.0]])
ROLL = jnp.float32([[-1.3, -0.4, -3.4], [-0.7, -1.1, 0.0]])
NEW = jnp.float32([[-0.8, -0.9, -1.6], [-1.0, -0.9, 0.0]])


def test_written_numbers():
    each = truncated_importance_weights(OLD, ROLL, max_weight=jnp.inf)
    np.testing.assert_allclose(each[0], [1.34985881, 0.90483742, 4.05519997], rtol=1e-6)
    np.testing.assert_allclose(each[1, :2], [1, 0.90483742], rtol=1e-6)
    np.testing.assert_allclose(truncated_importance_weights(OLD, ROLL)[0, 2], 3.0)
    sums = (OLD * MASK).sum(axis=-1), (ROLL * MASK).sum(axis=-1)
    np.testing.assert_allclose(truncated_importance_weights(*sums), [3, 0.90483742], rtol=1e-6)
    np.testing.assert_allclose(masked_importance_weights(*sums), [0, 0.90483742], rtol=1e-6)
    np.testing.assert_allclose(
        masked_importance_weights(*sums, max_weight=10.0, min_weight=0.95), [4.95303242, 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        truncated_importance_weights(*sums, max_weight=2.0, min_weight=0.95), [2, 0.95], rtol=1e-6
    )


def test_the_sequence_mask_spares_what_is_good_or_near():
    # Statistics (-.0667, 0): how much rarer the policy has made the samples, a token.
    kept = off_policy_sequence_mask(NEW, OLD, jnp.float32([-1.0, -1.0]), MASK, threshold=-0.03)
    np.testing.assert_array_equal(kept, [1, 0])
    kept = off_policy_sequence_mask(NEW, OLD, jnp.float32([-1.0, 0.0]), MASK, threshold=-0.03)
    np.testing.assert_array_equal(kept, [1, 1])
    kept = off_policy_sequence_mask(NEW, OLD, jnp.float32([-1.0, -1.0]), MASK, threshold=-0.07)
    np.testing.assert_array_equal(kept, [0, 0])
    kept = off_policy_sequence_mask(NEW - 1e4, OLD, jnp.float32([-1.0, -1.0]), MASK, threshold=jnp.inf)
    np.testing.assert_array_equal(kept, [1, 1])
    at_start = off_policy_sequence_mask(NEW, NEW, jnp.float32([-1.0, -1.0]), MASK, threshold=0.0)
    np.testing.assert_array_equal(at_start, 1.0)
    dirty = jnp.where(MASK == 1, OLD, jnp.nan), jnp.where(MASK == 1, NEW, 1e9)
    kept = off_policy_sequence_mask(dirty[1], dirty[0], jnp.float32([-1.0, -1.0]), MASK, threshold=-0.03)
    np.testing.assert_array_equal(kept, [1, 0])


def test_tokens_without_a_score_are_not_corrected():
    missing = ROLL.at[0, 2].set(jnp.nan)
    assert float(truncated_importance_weights(OLD, missing)[0, 2]) == 1.0
    assert float(masked_importance_weights(OLD, missing)[0, 2]) == 1.0
    scored = off_policy_sequence_mask(NEW, OLD.at[0, 0].set(jnp.nan), -jnp.ones(2), MASK, threshold=0.0)
    assert float(scored[0]) == 1.0  # (.4 - .4) / 3


@pytest.mark.parametrize("weights", [truncated_importance_weights, masked_importance_weights])
def test_no_gradient_and_finite_far_out(weights):
    def loss(new, sampled):
        return (weights(new, sampled) * ppo_clip_loss(new, OLD, jnp.ones_like(OLD))).sum()

    for place in (ROLL, ROLL - 1e4, ROLL + 1e4):
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(NEW, place)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        np.testing.assert_array_equal(gradients[1], 0.0)
    weight = weights(NEW, ROLL, max_weight=1e9)
    alone = jax.grad(lambda new: (weight * ppo_clip_loss(new, OLD, jnp.ones_like(OLD))).sum())(NEW)
    both = jax.grad(
        lambda new: (weights(new, ROLL, max_weight=1e9) * ppo_clip_loss(new, OLD, jnp.ones_like(OLD))).sum()
    )(NEW)
    np.testing.assert_allclose(both, alone, rtol=1e-6)


WEIGHTS = jax.jit(truncated_importance_weights), jax.jit(masked_importance_weights)


@given(
    st.floats(-30, 0, width=32),
    st.floats(-30, 0, width=32),
    st.floats(0, 1, width=32),
    st.floats(1, 9, width=32),
)
@settings(max_examples=30, deadline=None)
def test_within_the_bounds_both_are_the_ratio(logp, sampler_logp, low, high):
    pair = jnp.float32(logp), jnp.float32(sampler_logp)
    truncated, masked = (float(f(*pair, max_weight=high, min_weight=low)) for f in WEIGHTS)
    assert low <= truncated <= high
    assert masked in (0.0, truncated)
    if low < truncated < high:
        assert masked == truncated
