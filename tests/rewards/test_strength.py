"""Strength of preferences over ten reward models: a released example, and what is done with weak labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.losses import bradley_terry_loss
from prefjax.rewards import (
    bradley_terry_probability,
    preference_strength,
    ranking_accuracy,
    soft_label,
    strength_deviation,
    weakest_pairs,
)

CHOSEN = jnp.float32(
    [
        3.71875,
        0.58984375,
        3.390625,
        0.006805419921875,
        -0.6953125,
        1.0390625,
        1.4140625,
        0.8359375,
        3.078125,
        2.0,
    ]
)
REJECTED = jnp.float32(
    [3.546875, 0.9921875, 2.125, -0.330078125, 1.171875, 1.2578125, 1.078125, 1.0546875, 3.546875, 2.265625]
)
NUMBER = st.integers(-80, 80).map(lambda i: i / 8)


def test_a_released_example():
    strength = preference_strength(CHOSEN, REJECTED)
    assert float(strength) == pytest.approx(-0.133109, abs=6e-7)
    # By M - 1 it would be 0.796853.
    assert float(strength_deviation(CHOSEN, REJECTED)) == pytest.approx(0.755961, abs=6e-7)
    assert float(ranking_accuracy(CHOSEN, REJECTED).mean()) == pytest.approx(0.4)
    label = soft_label(strength)
    assert float(label) == pytest.approx(0.466772, abs=6e-7)
    loss = bradley_terry_loss(jnp.float32(0.5), jnp.float32(0.0), label_smoothing=1 - label)
    assert float(loss) == pytest.approx(0.740691, abs=1e-6)


def test_the_adaptive_margin():
    rewards = jnp.float32([0.5, 2.0]), jnp.zeros(2)
    loss = bradley_terry_loss(*rewards, margin=jnp.float32([1.2, 1.2]))
    np.testing.assert_allclose(loss, [1.103186, 0.371101], atol=6e-7)


def test_the_weakest_fifth():
    strengths = jnp.float32([0.3, -1.0, 2.0, np.nan, 0.1, 5.0, -0.2, 1.0, 1.0, 3.0])
    np.testing.assert_array_equal(np.flatnonzero(weakest_pairs(strengths)), [1, 6])
    np.testing.assert_array_equal(np.flatnonzero(weakest_pairs(strengths, fraction=0.3)), [1, 4, 6])
    np.testing.assert_array_equal(np.flatnonzero(weakest_pairs(jnp.ones(10))), [0, 1])
    assert not np.any(weakest_pairs(strengths, fraction=0.0))
    assert np.all(weakest_pairs(strengths, fraction=1.0))
    assert weakest_pairs(jnp.zeros(0)).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (6, 4), elements=NUMBER), st.data())
def test_flips_are_smoothing_of_one_and_soft_labels_are_bradley_terry_of_means(chosen, data):
    rejected = data.draw(arrays(np.float32, (6, 4), elements=NUMBER))
    chosen, rejected = jnp.asarray(chosen), jnp.asarray(rejected)
    strength = preference_strength(chosen, rejected)
    of_means = bradley_terry_probability(chosen.mean(axis=-1), rejected.mean(axis=-1))
    np.testing.assert_allclose(soft_label(strength), of_means, atol=1e-5)
    weak = weakest_pairs(strength, fraction=0.4)
    c, r = chosen[:, 0], rejected[:, 0]
    flipped = bradley_terry_loss(jnp.where(weak, r, c), jnp.where(weak, c, r))
    smoothed = bradley_terry_loss(c, r, label_smoothing=weak.astype(jnp.float32))
    np.testing.assert_allclose(flipped, smoothed, rtol=1e-6)
    np.testing.assert_allclose(
        soft_label(strength, temperature=1e-30), np.sign(strength) / 2 + 0.5, atol=1e-6
    )


def test_members_that_agree_have_no_deviation_and_no_gradient():
    both = jnp.ones(4), jnp.zeros(4)
    value, slope = jax.value_and_grad(strength_deviation)(*both)
    assert float(value) == 0.0
    np.testing.assert_array_equal(slope, 0.0)
    assert float(strength_deviation(jnp.ones(1), jnp.zeros(1))) == 0.0
