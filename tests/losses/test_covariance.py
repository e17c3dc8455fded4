"""KL-Cov and Clip-Cov: which tokens are selected, and what is done to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    clip_cov_loss,
    clip_cov_selection,
    covariance_threshold,
    kl_cov_loss,
    ppo_clip_loss,
    token_covariances,
)

NEW, OLD = jnp.float32([-0.8, -0.9, -1.6, -1.0, -0.9]), jnp.float32([-1.0, -0.5, -2.0, -0.7, -1.2])
ADVANTAGES = jnp.float32([1, 1, 1, -0.5, -0.5])
SELECTED = jnp.float32([1, 0, 0, 1, 0])


def test_kl_cov_by_hand():
    value, slope = jax.value_and_grad(lambda new: kl_cov_loss(new, OLD, ADVANTAGES, SELECTED).sum())(NEW)
    ratio = np.exp(NEW - OLD)
    price = np.array([0.2, 0, 0, 0.3, 0])
    assert float(value) == pytest.approx(float((price - ratio * ADVANTAGES).sum()), rel=1e-6)
    np.testing.assert_allclose(slope, np.array([1, 0, 0, -1, 0]) - ratio * ADVANTAGES, rtol=1e-5)
    started = jax.grad(lambda new: kl_cov_loss(new, OLD, ADVANTAGES, SELECTED).sum())(OLD)
    np.testing.assert_allclose(started, -ADVANTAGES, rtol=1e-6)


def test_clip_cov_by_hand():
    loss = clip_cov_loss(NEW, OLD, ADVANTAGES, SELECTED)
    np.testing.assert_allclose(loss, [0, -0.67032005, -1.2, 0, 0.6749294], atol=1e-6)


@given(st.floats(-8, 0, width=32), st.floats(-8, 0, width=32), st.floats(-3, 3, width=32))
@settings(max_examples=30, deadline=None)
def test_with_nothing_selected_both_are_ppo(new, old, advantage):
    arguments = tuple(jnp.float32(x) for x in (new, old, advantage))
    np.testing.assert_array_equal(PLAIN[0](*arguments, jnp.float32(0)), PLAIN[1](*arguments))
    np.testing.assert_allclose(
        PLAIN[2](*arguments, jnp.float32(0)),
        PLAIN[3](*arguments, epsilon_high=jnp.inf, epsilon_low=jnp.inf),
        rtol=1e-6,
    )


PLAIN = jax.jit(clip_cov_loss), jax.jit(ppo_clip_loss), jax.jit(kl_cov_loss), jax.jit(ppo_clip_loss)


@pytest.mark.parametrize("garbage", [0.0, 1e6, np.nan])
def test_covariances_and_the_largest_of_them(garbage):
    logps, advantages = (jnp.append(x, garbage) for x in (NEW, ADVANTAGES))
    mask = jnp.append(jnp.ones(5), 0.0)
    found = token_covariances(logps, advantages, mask)
    np.testing.assert_allclose(found[:5], (ADVANTAGES - 0.4) * (NEW + 1.04), atol=1e-6)
    assert float(found[5]) == 0.0
    biased = np.cov(NEW, ADVANTAGES, ddof=0)[0, 1]
    assert float(found[:5].mean()) == pytest.approx(float(biased), abs=1e-6)
    ordered = np.sort(found[:5])[::-1]
    for fraction, place in ((2e-4, 0), (0.2, 0), (0.4, 1), (0.99, 3), (1.0, 4)):
        assert float(covariance_threshold(found, mask, fraction=fraction)) == pytest.approx(ordered[place])
    assert float(covariance_threshold(found, jnp.zeros(6))) == np.inf


def test_a_random_choice_from_the_window():
    covariances = jnp.asarray(np.linspace(0, 6, 61), jnp.float32).reshape(1, 61)
    mask = jnp.ones((1, 61)).at[0, 30].set(0.0)
    chosen = jax.jit(lambda key: clip_cov_selection(key, covariances, mask, fraction=0.1))
    counted = sum(chosen(key) for key in jax.random.split(jax.random.key(0), 200))
    assert float(chosen(jax.random.key(1)).sum()) == 6  # a tenth of 60
    inside = np.asarray((covariances > 1) & (covariances < 5) & (mask == 1))
    np.testing.assert_array_equal(np.asarray(counted)[~inside], 0.0)
    assert np.asarray(counted)[inside].min() > 5  # about 31 each
    few = clip_cov_selection(jax.random.key(2), covariances, mask, fraction=1.0)
    np.testing.assert_array_equal(np.asarray(few) == 1, inside)


@pytest.mark.parametrize(
    ("number", "fraction", "expected"), [(100, 0.53, 53), (100, 0.29, 29), (25, 0.6, 15)]
)
def test_a_share_is_a_whole_number_where_it_is_one(number, fraction, expected):
    """Not one less, where the product of two floats lies just below; also where the fraction is traced."""
    values, mask = jnp.arange(1.0, number + 1), jnp.ones(number)
    threshold = jax.jit(lambda f: covariance_threshold(values, mask, fraction=f))
    for found in (covariance_threshold(values, mask, fraction=fraction), threshold(fraction)):
        assert float(found) == number + 1 - expected
    key, window = jax.random.key(0), {"low": 0.0, "high": 1e9}
    selected = jax.jit(lambda f: clip_cov_selection(key, values, mask, fraction=f, **window))(fraction)
    assert int(selected.sum()) == expected
