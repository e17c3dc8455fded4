"""Calibration: written numbers, ties, edges of bins, and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from prefjax.rewards import brier_score, expected_calibration_error, ranking_accuracy, reliability_curve

P = jnp.float32([0.55, 0.65, 0.72, 0.81, 0.90, 0.95])
Y = jnp.float32([1, 0, 1, 1, 1, 1])


def test_known_values():
    assert float(brier_score(P, Y).mean()) == pytest.approx(0.125333, abs=6e-7)
    assert float(expected_calibration_error(P, Y, num_bins=5)) == pytest.approx(0.286667, abs=6e-7)


def test_the_order_of_a_pair_does_not_matter():
    flipped = jnp.float32([1, 0, 1, 0, 1, 0])
    p, y = jnp.where(flipped == 1, 1 - P, P), jnp.where(flipped == 1, 1 - Y, Y)
    assert float(expected_calibration_error(p, y, num_bins=5)) == pytest.approx(0.286667, abs=6e-7)
    np.testing.assert_allclose(brier_score(p, y), brier_score(P, Y), rtol=1e-5)


def test_bins_are_closed_on_the_right():
    # .6 belongs to (.5, .6]: with .55 it averages out. In a bin of its own it would not.
    p, y = jnp.float32([0.55, 0.6]), jnp.float32([0.15, 1.0])
    assert float(expected_calibration_error(p, y, num_bins=5)) == pytest.approx(0.0, abs=1e-6)
    assert float(expected_calibration_error(p, y, num_bins=50)) == pytest.approx(0.4, abs=1e-6)


def test_certainty_and_coin_tosses():
    assert float(expected_calibration_error(jnp.ones(4), jnp.ones(4))) == 0.0
    assert float(expected_calibration_error(jnp.zeros(4), jnp.ones(4))) == 1.0
    assert float(expected_calibration_error(jnp.full(4, 0.5), jnp.float32([1, 1, 1, 0]))) == 0.0


def test_a_calibrated_judge_has_little_error_and_an_overconfident_one_its_excess():
    keys = jax.random.split(jax.random.key(0), 2)
    p = jax.random.uniform(keys[0], (3, 100_000))
    y = (jax.random.uniform(keys[1], p.shape) < p).astype(jnp.float32)
    assert np.all(np.asarray(expected_calibration_error(p, y)) < 0.01)
    # Says p̂ = p² / (p² + (1 - p)²), log-odds doubled; the error is the mean of |confidence - truth|.
    said = p**2 / (p**2 + (1 - p) ** 2)
    excess = (jnp.maximum(said, 1 - said) - jnp.maximum(p, 1 - p)).mean(axis=-1)
    np.testing.assert_allclose(expected_calibration_error(said, y), excess, atol=0.005)


def test_ties_are_half_right():
    accuracy = ranking_accuracy(jnp.float32([2, 1, 0, jnp.inf]), jnp.float32([1, 1, 1, 1]))
    np.testing.assert_array_equal(accuracy, [1.0, 0.5, 0.0, 1.0])
    assert np.isnan(ranking_accuracy(jnp.float32(jnp.nan), jnp.float32(0)))
    with jax.enable_x64(True):  # closer than float32 can tell
        assert float(ranking_accuracy(jnp.float64(1 + 1e-12), jnp.float64(1))) == 1.0


def test_the_reliability_curve_is_the_error_bin_by_bin():
    curve = reliability_curve(P, Y, num_bins=5)
    np.testing.assert_array_equal(curve.number, [1, 1, 1, 2, 1])
    np.testing.assert_allclose(curve.confidence, [0.55, 0.65, 0.72, 0.855, 0.95], atol=1e-6)
    np.testing.assert_array_equal(curve.accuracy, [1, 0, 1, 1, 1])
    gaps = curve.number * jnp.abs(curve.confidence - curve.accuracy)
    error = expected_calibration_error(P, Y, num_bins=5)
    assert float(gaps.sum() / 6) == pytest.approx(float(error), rel=1e-5)


def test_empty_bins_have_no_accuracy_and_no_pairs_none_at_all():
    curve = reliability_curve(jnp.float32([0.9, 0.1]), jnp.float32([1, 1]), num_bins=4)
    np.testing.assert_array_equal(curve.number, [0, 0, 0, 2])
    np.testing.assert_array_equal(curve.accuracy, [np.nan, np.nan, np.nan, 0.5])
    nothing = reliability_curve(jnp.zeros(0), jnp.zeros(0), num_bins=4)
    assert np.all(np.isnan(nothing.confidence))
    np.testing.assert_array_equal(nothing.number, 0.0)


def test_the_bins_are_those_of_scipy():
    keys = jax.random.split(jax.random.key(1), 2)
    p, y = (
        jax.random.uniform(keys[0], (5000,)),
        jax.random.bernoulli(keys[1], 0.6, (5000,)).astype(jnp.float32),
    )
    confidence = np.maximum(p, 1 - p)
    right = np.where(np.asarray(p) > 0.5, y, 1 - y)
    expected, _, _ = stats.binned_statistic(confidence, [confidence, right], bins=10, range=(0.5, 1.0))
    curve = reliability_curve(p, y)
    np.testing.assert_allclose(np.stack(curve[:2]), expected, atol=1e-5)
