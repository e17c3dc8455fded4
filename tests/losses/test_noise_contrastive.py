"""Noise-contrastive alignment: a pair, what it finds, ragged lists."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import nca_loss, nca_pair_loss

RATIOS, REWARDS = jnp.float32([1.0, -1.0, 0.5]), jnp.float32([2.0, 0.0, 1.0])
ONES = jnp.ones(3)
BOTH = jax.jit(jax.value_and_grad(partial(nca_loss, beta=0.3, temperature=2.0)))


def test_by_hand_with_its_slope():
    share = np.exp([1.0, 0.0, 0.5]) / np.exp([1.0, 0.0, 0.5]).sum()
    implicit = 0.3 * np.float64(RATIOS)
    value = (share * np.logaddexp(0, -implicit) + np.logaddexp(0, implicit) / 3).sum()
    found, slope = BOTH(RATIOS, REWARDS, ONES)
    assert float(found) == pytest.approx(value, rel=1e-6)
    chance = 1 / (1 + np.exp(-implicit))
    np.testing.assert_allclose(slope, 0.3 * (chance / 3 - share * (1 - chance)), rtol=1e-5)
    assert float(BOTH(jnp.zeros(3), REWARDS, ONES)[0]) == pytest.approx(2 * np.log(2), rel=1e-6)


def test_the_pairs_of_the_card():
    """ρ = (1, -.5) and (-1, 1) with β = .1, the first one better by more than anything."""
    ratios, rewards = jnp.float32([[1.0, -0.5], [-1.0, 1.0]]), jnp.float32([[1.0, 0.0]] * 2)
    loss = nca_loss(ratios, rewards, jnp.ones((2, 2)), beta=0.1, temperature=1e-3)
    np.testing.assert_allclose(loss, [1.35082481, 1.43879332], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 2))
def test_of_two_where_the_best_takes_all(chosen, rejected, beta):
    both = jnp.float32([chosen, rejected])
    loss = nca_loss(both, jnp.float32([1.0, -1.0]), jnp.ones(2), beta=beta, temperature=1e-3)
    np.testing.assert_allclose(loss, nca_pair_loss(*both, beta=beta), rtol=1e-5, atol=1e-6)


def test_it_rests_where_the_implicit_reward_is_the_reward_less_its_log_mean_exponential():
    rewards, alpha, beta = np.array([2.0, -1.0, 0.3, 0.9]), 0.7, 0.2
    rest = (rewards / alpha - np.log(np.mean(np.exp(rewards / alpha)))) / beta
    slope = jax.jit(
        jax.grad(lambda r: nca_loss(r, jnp.float32(rewards), jnp.ones(4), beta=beta, temperature=alpha))
    )
    np.testing.assert_allclose(slope(jnp.float32(rest)), 0.0, atol=1e-6)
    assert np.abs(slope(jnp.float32(rest + 1))).max() > 1e-3  # a constant is seen


def test_all_of_a_small_world_with_beta_one_is_the_normalised_optimum():
    """Every answer once for each time the uniform reference draws it: π = π₀ exp(r/α)/Z, without being told so."""
    rewards = np.array([1.0, 0.0, -0.5, 0.2])
    optimum = np.exp(rewards / 0.5) / np.exp(rewards / 0.5).sum()
    ratios = jnp.log(jnp.float32(optimum * 4))
    slope = jax.jit(
        jax.grad(lambda r: nca_loss(r, jnp.float32(rewards), jnp.ones(4), beta=1.0, temperature=0.5))
    )
    np.testing.assert_allclose(slope(ratios), 0.0, atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e4, np.nan, np.inf, -np.inf])
def test_absent_ones_take_no_part_wherever_they_stand(garbage):
    ratios = jnp.float32([1.0, garbage, -1.0, garbage, 0.5])
    rewards = jnp.float32([2.0, garbage, 0.0, garbage, 1.0])
    mask = jnp.float32([1, 0, 1, 0, 1])
    value, slope = BOTH(ratios, rewards, mask)
    alone, its = BOTH(RATIOS, REWARDS, ONES)
    assert float(value) == pytest.approx(float(alone), rel=1e-6)
    np.testing.assert_allclose(slope[jnp.array([0, 2, 4])], its, rtol=1e-5)
    np.testing.assert_array_equal(slope[jnp.array([1, 3])], 0.0)
    assert float(BOTH(ratios, rewards, 0 * mask)[0]) == 0.0
