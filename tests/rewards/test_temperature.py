"""Temperatures: the calibrated softmax, and the fit against scipy's minimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from prefjax.rewards import (
    bradley_terry_probability,
    calibrated_softmax,
    expected_calibration_error,
    fitted_temperature,
)

U = jnp.float32([1, 0.5, -0.5])


def test_written_numbers_and_limits():
    p = calibrated_softmax(U, temperature=1.0)
    np.testing.assert_allclose(p, [0.546549, 0.331499, 0.121952], atol=6e-7)
    slope = jax.grad(lambda u: jnp.log(calibrated_softmax(u, temperature=1.0)[0]))(U)
    np.testing.assert_allclose(slope, [0.453451, -0.331499, -0.121952], atol=6e-7)
    assert float(slope.sum()) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(calibrated_softmax(U + 3, temperature=1.0), p, rtol=1e-5)
    np.testing.assert_allclose(calibrated_softmax(U, temperature=1e-3), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(calibrated_softmax(U, temperature=1e6), 1 / 3, atol=1e-6)
    pair = calibrated_softmax(jnp.float32([1.2, 0.0]), temperature=2.0)
    np.testing.assert_allclose(
        pair[0], bradley_terry_probability(jnp.float32(0.6), jnp.float32(0)), rtol=1e-6
    )


def test_the_fit_is_scipys():
    random = np.random.default_rng(0)
    scores = random.normal(size=(400, 4)) * 3
    chances = np.cumsum(special.softmax(scores / 2.5, axis=1), axis=1)
    labels = (random.uniform(size=(400, 1)) > chances).sum(axis=1)

    def nll(log_temperature):
        logps = special.log_softmax(scores / np.exp(log_temperature), axis=1)
        return -logps[np.arange(400), labels].mean()

    best = np.exp(optimize.minimize_scalar(nll, bracket=(0, 1), tol=1e-12).x)
    found = fitted_temperature(jnp.float32(scores), jnp.asarray(labels))
    assert float(found) == pytest.approx(best, rel=1e-4)
    assert 2.0 < best < 3.0


def test_an_overconfident_judge_is_calibrated_by_it():
    keys = jax.random.split(jax.random.key(0), 2)
    truth = 2 * jax.random.normal(keys[0], (20_000,))
    won = jax.random.bernoulli(keys[1], jax.nn.sigmoid(truth)).astype(jnp.float32)
    said = 3 * truth
    scores = jnp.stack([said, jnp.zeros_like(said)], axis=-1)
    temperature = fitted_temperature(scores, 1 - won)
    assert float(temperature) == pytest.approx(3.0, rel=0.05)
    before = expected_calibration_error(jax.nn.sigmoid(said), won)
    after = expected_calibration_error(jax.nn.sigmoid(said / temperature), won)
    assert float(after) < 0.015 < 0.08 < float(before)


def test_the_limits_are_returned_where_there_is_no_best_one():
    scores = jnp.float32([[1, 0], [2, 0]])
    always, never = (
        fitted_temperature(scores, jnp.asarray([0, 0])),
        fitted_temperature(scores, jnp.asarray([1, 1])),
    )
    assert (float(always), float(never)) == pytest.approx((1e-3, 1e3), rel=1e-4)
    assert np.isnan(fitted_temperature(scores.at[0, 0].set(np.nan), jnp.asarray([0, 0])))
    np.testing.assert_array_equal(jax.grad(lambda s: fitted_temperature(s, jnp.asarray([0, 1])))(scores), 0.0)
