"""Grades and ratings: loss against scipy's sigmoids, ties of Rao and Kupper, ratings that are missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from prefjax.checks import InputError
from prefjax.losses import bradley_terry_loss, ordinal_loss, rating_loss
from prefjax.rewards import ordinal_probabilities, rao_kupper_probabilities
from prefjax.types import Weighted

SCORES = arrays(np.float32, (6,), elements=st.integers(-80, 80).map(lambda i: i / 8))


def test_by_hand_with_its_gradients():
    thresholds = jnp.float32([-1.0, 0.5])
    each = jnp.broadcast_to(thresholds[None], (3, 2))
    loss = ordinal_loss(jnp.full(3, 0.3), each, jnp.asarray([0, 1, 2]))
    below = special.expit(np.array([-1.3, 0.2]))
    np.testing.assert_allclose(loss, -np.log([below[0], below[1] - below[0], 1 - below[1]]), rtol=1e-6)
    slope = jax.grad(ordinal_loss, argnums=(0, 1))(jnp.float32(0.3), thresholds, jnp.asarray(1))
    density = below * (1 - below)
    chance = below[1] - below[0]
    assert float(slope[0]) == pytest.approx((density[1] - density[0]) / chance, rel=1e-5)
    np.testing.assert_allclose(slope[1], [density[0] / chance, -density[1] / chance], rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(SCORES, arrays(np.int32, (6,), elements=st.integers(0, 2)), st.floats(1.125, 9, width=32))
def test_it_is_bradley_terry_of_one_threshold_and_rao_kupper_of_two(scores, labels, theta):
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    won = labels > 0
    plain = ordinal_loss(scores, jnp.zeros((6, 1)), won)
    smoothed = bradley_terry_loss(scores, jnp.zeros(6), label_smoothing=1 - won.astype(jnp.float32))
    np.testing.assert_allclose(plain, smoothed, rtol=1e-5, atol=1e-6)
    thresholds = jnp.broadcast_to(jnp.float32([-np.log(theta), np.log(theta)])[None], (6, 2))
    ends = rao_kupper_probabilities(scores, jnp.zeros(6), threshold=theta)  # win, lose, tie
    chance = jnp.take_along_axis(ends, jnp.asarray([1, 2, 0])[labels][:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(
        ordinal_loss(scores, thresholds, labels), -np.log(chance), rtol=1e-3, atol=1e-5
    )
    # A constant in scores and thresholds drops out, and the expectation of the loss is least at the truth.
    np.testing.assert_allclose(
        ordinal_loss(scores + 2, thresholds + 2, labels),
        ordinal_loss(scores, thresholds, labels),
        rtol=1e-4,
        atol=1e-5,
    )


def test_it_rests_where_the_grades_are_as_probable_as_in_the_data():
    thresholds = jnp.float32([-1.0, 0.5, 2.0])
    truth = ordinal_probabilities(jnp.float32(0.4), thresholds)

    def expected(score, thresholds):
        each = jnp.broadcast_to(thresholds[None], (4, 3))
        return truth @ ordinal_loss(jnp.full(4, score), each, jnp.arange(4))

    slopes = jax.grad(expected, argnums=(0, 1))(jnp.float32(0.4), thresholds)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_labels_that_are_no_grade_are_nan_and_grades_without_room_infinite():
    scores, thresholds = jnp.zeros(4), jnp.broadcast_to(jnp.float32([0.0, 0.0])[None], (4, 2))
    loss = ordinal_loss(scores, thresholds, jnp.asarray([-1, 3, 1, 2]))
    np.testing.assert_array_equal(np.isnan(loss), [True, True, False, False])
    assert np.isposinf(loss[2])
    slope = jax.grad(lambda s: ordinal_loss(s, thresholds, jnp.asarray([1, 1, 1, 2])).sum())(scores)
    assert np.all(np.isfinite(slope))
    with pytest.raises(InputError, match=r"thresholds has shape \(2,\)"):
        ordinal_loss.__wrapped__(scores, jnp.zeros(2), jnp.zeros(4))


def test_ratings_that_are_missing_leave_no_trace():
    scores, ratings = jnp.float32([[0.5, 0.2], [0.1, 0.9]]), jnp.float32([[0.7, np.nan], [np.nan, np.inf]])
    mask = jnp.asarray([[1, 0], [0, 0]])

    def mean(scores):
        return Weighted.tokens(rating_loss(scores, ratings, mask), mask).mean()

    value, slope = jax.value_and_grad(mean)(scores)
    assert float(value) == pytest.approx(0.04, rel=1e-5)
    np.testing.assert_allclose(slope, [[-0.4, 0.0], [0.0, 0.0]], atol=1e-6)
    assert float(Weighted.tokens(rating_loss(scores, ratings, 0 * mask), 0 * mask).mean()) == 0.0
