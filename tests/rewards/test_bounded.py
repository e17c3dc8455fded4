"""Rewards by comparison with a reference: written numbers, bounds, what drops out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.rewards import (
    bradley_terry_probability,
    centred_rewards,
    log_sigmoid_centred_rewards,
    par_rewards,
    polynomial_sigmoid,
    relative_rewards,
)

R, REFERENCES = jnp.float32(1.5), jnp.float32([0.0, 1.0, -0.5, 2.0])
NUMBER = st.integers(-400, 400).map(lambda i: i / 8)
REWARDS = arrays(np.float32, (5,), elements=NUMBER)
GROUPS = arrays(np.float32, (5, 3), elements=NUMBER)


def test_written_numbers():
    assert float(par_rewards(R, REFERENCES)) == pytest.approx(0.674593, abs=6e-7)
    assert float(par_rewards(R, REFERENCES, slope=2.0)) == pytest.approx(0.733647, abs=6e-7)
    assert float(par_rewards(R, REFERENCES[:1])) == pytest.approx(0.817574, abs=6e-7)
    assert float(relative_rewards(R, REFERENCES, shape=jnp.tanh)) == pytest.approx(0.467294, abs=6e-7)
    assert float(centred_rewards(R, REFERENCES)) == pytest.approx(0.875, abs=1e-7)
    # Slow growth, fast convergence.
    assert float(par_rewards(R - 3, REFERENCES)) == pytest.approx(0.139134, abs=6e-7)
    assert float(par_rewards(R - 3, REFERENCES, slope=3.0)) == pytest.approx(0.014748, abs=6e-7)
    # With the standard deviation of a population it would be -0.755018.
    assert float(log_sigmoid_centred_rewards(R, REFERENCES)) == pytest.approx(-0.839549, abs=2e-6)
    one = log_sigmoid_centred_rewards(R, REFERENCES[1:2], epsilon=0.0)
    assert float(one) == pytest.approx(-np.log1p(np.exp(-0.5)), rel=1e-6)


def test_the_gradient_of_par_by_hand():
    slope = jax.grad(lambda r: par_rewards(r, REFERENCES, slope=2.0))(R)
    probability = 1 / (1 + np.exp(-2 * (1.5 - np.asarray(REFERENCES))))
    assert float(slope) == pytest.approx(np.mean(2 * probability * (1 - probability)), rel=1e-6)


def test_the_polynomial_is_the_least_squares_fit_of_the_sigmoid():
    x = np.linspace(-5, 5, 100)
    fitted = np.polyval(np.polyfit(x, 1 / (1 + np.exp(-x)), 5), x)
    np.testing.assert_allclose(polynomial_sigmoid(jnp.float32(x))[1:-1], fitted[1:-1], atol=1e-6)
    found = polynomial_sigmoid(jnp.float32([1.0, 3.0, 4.99999, 5.0, -5.0, -7.0, 7.0]))
    np.testing.assert_allclose(found, [0.718860, 0.962080, 1.010920, 1, 0, 0, 1], atol=2e-6)
    assert np.abs(fitted - 1 / (1 + np.exp(-x))).max() == pytest.approx(0.017613, abs=1e-6)
    assert np.isnan(polynomial_sigmoid(jnp.float32(np.nan)))


@settings(max_examples=30, deadline=None)
@given(REWARDS, GROUPS, st.floats(0.0625, 10, width=32), st.floats(-20, 20, width=32))
def test_par_is_bounded_rising_and_blind_to_an_offset(rewards, references, slope, offset):
    found = np.asarray(par_rewards(jnp.asarray(rewards), jnp.asarray(references), slope=slope))
    assert np.all((found >= 0) & (found <= 1))
    higher = par_rewards(jnp.asarray(rewards + 1), jnp.asarray(references), slope=slope)
    assert np.all(np.asarray(higher) >= found)
    moved = par_rewards(jnp.asarray(rewards + offset), jnp.asarray(references + offset), slope=slope)
    np.testing.assert_allclose(moved, found, atol=1e-4)
    # It is the mean probability of Bradley and Terry, and the family with that shape.
    wide = jnp.broadcast_to(jnp.asarray(rewards)[:, None], references.shape)
    beats = bradley_terry_probability(slope * wide, slope * jnp.asarray(references)).mean(axis=-1)
    np.testing.assert_allclose(found, beats, atol=1e-5)
    of_family = relative_rewards(
        jnp.asarray(rewards), jnp.asarray(references), shape=lambda x: jax.nn.sigmoid(slope * x)
    )
    np.testing.assert_allclose(found, of_family, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(REWARDS, GROUPS)
def test_limits_of_the_slope(rewards, references):
    rewards, references = jnp.asarray(rewards), jnp.asarray(references)
    np.testing.assert_allclose(par_rewards(rewards, jnp.stack([rewards] * 3, axis=-1), slope=7.0), 0.5)
    beaten = np.mean(np.sign(rewards[:, None] - references) / 2 + 0.5, axis=-1)
    np.testing.assert_allclose(par_rewards(rewards, references, slope=1e30), beaten, atol=1e-6)
    small = (par_rewards(rewards, references, slope=1e-3) - 0.5) * 4e3
    np.testing.assert_allclose(small, centred_rewards(rewards, references), atol=0.3)
    plain = relative_rewards(rewards, references, shape=lambda x: x)
    np.testing.assert_array_equal(plain, centred_rewards(rewards, references))


@pytest.mark.parametrize(
    "shaped", [par_rewards, centred_rewards, log_sigmoid_centred_rewards], ids=lambda f: f.__name__
)
def test_a_reference_that_is_nan_takes_no_part_and_none_at_all_is_nan(shaped):
    rewards = jnp.float32([1.5, 1.5, np.nan])
    references = jnp.float32([[0, 1, -0.5, 2], [0, np.nan, 1, np.nan], [0, 1, 2, 3]])
    found = shaped(rewards, references)
    np.testing.assert_allclose(found[1], shaped(R, jnp.float32([0.0, 1.0])), rtol=1e-6)
    assert np.isnan(found[2])
    empty = jnp.full((2, 4), jnp.nan)
    assert np.all(np.isnan(shaped(rewards[:2], empty)))
    assert np.all(np.isnan(shaped(rewards, jnp.zeros((3, 0)))))
    gradient = jax.grad(lambda r: jnp.nansum(shaped(r, references[:2])))(rewards[:2])
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(jax.grad(lambda r: jnp.nansum(shaped(r, empty)))(rewards[:2]), 0.0)
