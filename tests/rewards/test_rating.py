"""Grades, ties and normal noise: probabilities against differences of sigmoids in float64, and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special, stats

from prefjax.rewards import (
    bradley_terry_probability,
    davidson_probabilities,
    log_normal_cdf,
    ordinal_log_probabilities,
    ordinal_probabilities,
    rao_kupper_probabilities,
    thurstone_probability,
)

SCORES = arrays(np.float32, (6,), elements=st.integers(-160, 160).map(lambda i: i / 8))


@settings(max_examples=30, deadline=None)
@given(SCORES, arrays(np.float32, (6, 3), elements=st.floats(0.125, 5, width=32)))
def test_grades_are_differences_of_sigmoids(scores, gaps):
    thresholds = np.cumsum(gaps, axis=-1) - 6
    found = ordinal_probabilities(jnp.asarray(scores), jnp.asarray(thresholds))
    below = special.expit(thresholds.astype(np.float64) - scores.astype(np.float64)[:, None])
    expected = np.diff(np.concatenate([np.zeros((6, 1)), below, np.ones((6, 1))], axis=-1), axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    # Far out the difference has no digits left, the logarithm has all.
    far = ordinal_log_probabilities(jnp.asarray(scores) + 100, jnp.asarray(thresholds))
    assert np.all(np.isfinite(far))


def test_a_grade_far_below_by_hand():
    # σ(-99) - σ(-100) = e⁻⁹⁹ - e⁻¹⁰⁰ up to e⁻¹⁹⁸
    found = ordinal_log_probabilities(jnp.float32(100.0), jnp.float32([0.0, 1.0]))
    assert float(found[1]) == pytest.approx(-99 + np.log1p(-np.exp(-1)), rel=1e-6)
    slope = jax.grad(lambda s: ordinal_log_probabilities(s, jnp.float32([0, 1]))[1])(jnp.float32(100))
    assert float(slope) == pytest.approx(-1.0, rel=1e-6)


def test_no_room_between_thresholds():
    logs = ordinal_log_probabilities(jnp.float32(0.3), jnp.float32([1.0, 1.0, 0.5]))
    np.testing.assert_array_equal(np.isneginf(logs), [False, True, True, False])
    slope = jax.grad(lambda t: ordinal_log_probabilities(jnp.float32(0.3), t)[0])(jnp.float32([1, 1, 0.5]))
    assert np.all(np.isfinite(slope))


def test_written_numbers_of_ties():
    one, zero = jnp.float32(1), jnp.float32(0)
    davidson = davidson_probabilities(one, zero, tie=0.5)
    np.testing.assert_allclose(davidson, [0.598392, 0.220136, 0.181472], atol=6e-7)
    rao = rao_kupper_probabilities(one, zero, threshold=1.5)
    np.testing.assert_allclose(rao, [0.644405, 0.196950, 0.158645], atol=6e-7)
    win = jax.grad(lambda r: davidson_probabilities(r, zero, tie=0.5)[0])(one)
    assert float(win) == pytest.approx(0.598392 * (1 - 0.598392 - 0.181472 / 2), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(SCORES, SCORES, st.floats(1, 20, width=32))
def test_ties_vanish_into_bradley_terry_and_are_grades(rewards, others, theta):
    rewards, others = jnp.asarray(rewards), jnp.asarray(others)
    plain = bradley_terry_probability(rewards, others)
    np.testing.assert_allclose(
        rao_kupper_probabilities(rewards, others, threshold=1.0)[:, 0], plain, atol=1e-6
    )
    davidson = davidson_probabilities(rewards, others, tie=1e-9)
    np.testing.assert_allclose(davidson[:, 0], plain, atol=1e-5)
    tied = davidson_probabilities(rewards, others, tie=theta)
    np.testing.assert_allclose(tied[:, 0] / (tied[:, 0] + tied[:, 1]), plain, atol=1e-5)
    found = rao_kupper_probabilities(rewards, others, threshold=theta)
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, atol=1e-6)
    swapped = rao_kupper_probabilities(others, rewards, threshold=theta)
    np.testing.assert_allclose(swapped, found[:, jnp.asarray([1, 0, 2])], atol=1e-6)
    thresholds = jnp.broadcast_to(jnp.float32([-np.log(theta), np.log(theta)]), (6, 2))
    if theta > 1.01:
        grades = ordinal_probabilities(rewards - others, thresholds)
        np.testing.assert_allclose(grades[:, jnp.asarray([2, 0, 1])], found, atol=1e-5)


def test_written_numbers_of_thurstone():
    means, variances = jnp.float32([1, 1, 1]), jnp.float32([1, 1, 0.5])
    others = jnp.float32([0, 0, 0.2]), jnp.float32([1, 4, 0.3])
    found = thurstone_probability(means, others[0], variances, others[1])
    np.testing.assert_allclose(found, [0.760250, 0.672640, 0.814453], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SCORES, SCORES, arrays(np.float32, (2, 6), elements=st.floats(0.125, 9, width=32)))
def test_thurstone_is_antisymmetric_ordered_and_near_bradley_terry(means, others, variances):
    means, others, (one, two) = jnp.asarray(means), jnp.asarray(others), jnp.asarray(variances)
    p = thurstone_probability(means, others, one, two)
    np.testing.assert_allclose(p + thurstone_probability(others, means, two, one), 1.0, atol=1e-6)
    assert np.all((np.asarray(p) >= 0.5) == np.asarray(means >= others))
    half = jnp.full(6, 1.702**2 / 2)
    near = thurstone_probability(means, others, half, half) - bradley_terry_probability(means, others)
    assert np.abs(near).max() < 0.01
    expected = stats.norm.cdf(np.float64(means) - np.float64(others), scale=np.sqrt(np.float64(one + two)))
    np.testing.assert_allclose(p, expected, atol=1e-6)


def test_log_normal_cdf_is_scipys_and_so_is_its_slope():
    x = np.concatenate([-np.geomspace(1e-4, 1e10, 60), [0.0], np.geomspace(1e-4, 13, 30)]).astype(np.float32)
    value, slope = jax.vmap(jax.value_and_grad(log_normal_cdf))(jnp.asarray(x))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(value, special.log_ndtr(wide), rtol=1e-5, atol=1e-7)
    left = x < 5
    expected = np.sqrt(2 / np.pi) / special.erfcx(-wide[left] / np.sqrt(2))
    np.testing.assert_allclose(slope[left], expected, rtol=1e-5)
    assert np.all((slope >= 0) & (slope <= 1.000001 * np.maximum(-x, 0) + 0.8))
    assert np.isnan(log_normal_cdf(jnp.float32(np.nan)))
    with jax.enable_x64(True):
        fine = jnp.asarray(wide[wide > -1e3])
        np.testing.assert_allclose(
            log_normal_cdf(fine), special.log_ndtr(np.asarray(fine)), rtol=1e-10, atol=1e-15
        )
    # jax's own has the value and, far out in float32, another slope; should this fail, it has been repaired.
    theirs = jax.grad(jax.scipy.special.log_ndtr)(jnp.float32(-1e4))
    assert abs(float(theirs) - 1e4) > 1e3
