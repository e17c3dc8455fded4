"""Losses of judges: written numbers, what they identify, and a cycle that only two inputs can learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.losses import (
    bradley_terry_loss,
    centring_term,
    dpo_loss,
    noise_corrected_bradley_terry_loss,
    plackett_luce_loss,
    preference_model_loss,
    score_l2_term,
)
from prefjax.rewards import bradley_terry_probability, two_input_probability


@pytest.mark.parametrize(
    ("difference", "settings", "value"),
    [
        (0.0, {}, 0.693147),
        (1.0, {}, 0.313262),
        (-1.0, {}, 1.313262),
        (2.0, {}, 0.126928),
        (1.0, {"margin": 0.5}, 0.474077),
        (1.0, {"label_smoothing": 0.1}, 0.413262),
        (1.2, {}, 0.2632824673),
        (1.2, {"margin": 0.5}, 0.4031860489),
        (-20.0, {}, 20.0),  # -log(σ(d) + 1e-5) would say 11.51, with no gradient left
    ],
)
def test_bradley_terry_known_values(difference, settings, value):
    rewards = jnp.float32(difference), jnp.float32(0.0)
    assert float(bradley_terry_loss(*rewards, **settings)) == pytest.approx(value, abs=6e-7)


def test_bradley_terry_slope_and_the_cap_of_smoothing():
    slope = jax.grad(lambda d, **settings: bradley_terry_loss(d, jnp.float32(0.0), **settings))
    assert float(slope(jnp.float32(1.0))) == pytest.approx(-0.268941, abs=6e-7)
    # d* = log((1 - ε)/ε), where the loss is the entropy of a label that flips with probability ε.
    top = jnp.float32(math.log(9.0))
    assert float(slope(top, label_smoothing=0.1)) == pytest.approx(0.0, abs=1e-7)
    value = bradley_terry_loss(top, jnp.float32(0.0), label_smoothing=0.1)
    assert float(value) == pytest.approx(0.325083, abs=6e-7)


def test_a_margin_for_each_pair_and_a_constant_that_drops_out():
    chosen, rejected = jnp.float32([1.0, 2.0]), jnp.float32([0.0, 1.5])
    each = bradley_terry_loss(chosen, rejected, margin=jnp.float32([0.5, 0.0]))
    np.testing.assert_allclose(each, [0.474077, 0.474077], atol=6e-7)
    np.testing.assert_allclose(
        bradley_terry_loss(chosen + 5, rejected + 5), bradley_terry_loss(chosen, rejected), rtol=1e-6
    )


def test_preference_model_known_value_and_antisymmetry():
    score, swapped = jnp.float32(1.2), jnp.float32(-0.4)
    assert float(preference_model_loss(score, swapped)) == pytest.approx(-math.log(0.689974), abs=2e-6)
    np.testing.assert_allclose(
        preference_model_loss(score, swapped), preference_model_loss(swapped, score, target=0.0), rtol=1e-7
    )
    assert float(preference_model_loss(score, score, target=0.3)) == pytest.approx(math.log(2), rel=1e-6)


def test_preference_model_rests_where_it_says_what_the_label_says():
    target = jnp.float32([0.9, 0.5, 0.2])
    scores = jnp.log(target / (1 - target)), -jnp.log(target / (1 - target))

    def loss(score, swapped):
        return preference_model_loss(score, swapped, target=target)

    np.testing.assert_allclose(jax.grad(lambda s: loss(s, scores[1]).sum())(scores[0]), 0.0, atol=1e-7)
    entropy = -(target * np.log(target) + (1 - target) * np.log(1 - target))
    np.testing.assert_allclose(loss(*scores), entropy, rtol=1e-5)


def test_rock_paper_scissors_is_learnt_by_two_inputs_and_by_no_reward():
    winners, losers = jnp.array([0, 1, 2]), jnp.array([1, 2, 0])

    def descend(loss, params):
        step = jax.jit(lambda p: p - 2.0 * jax.grad(loss)(p))
        for _ in range(300):
            params = step(params)
        return params, float(loss(params))

    def by_reward(reward):
        return bradley_terry_loss(reward[winners], reward[losers], label_smoothing=0.1).mean()

    def by_pair(scores):
        return preference_model_loss(scores[winners, losers], scores[losers, winners], target=0.9).mean()

    reward, stuck = descend(by_reward, jax.random.normal(jax.random.key(0), (3,)))
    assert stuck == pytest.approx(math.log(2), abs=1e-5)
    np.testing.assert_allclose(bradley_terry_probability(reward[winners], reward[losers]), 0.5, atol=1e-3)
    scores, learnt = descend(by_pair, jax.random.normal(jax.random.key(1), (3, 3)))
    assert learnt == pytest.approx(0.325083, abs=1e-5)
    np.testing.assert_allclose(
        two_input_probability(scores[winners, losers], scores[losers, winners]), 0.9, atol=1e-4
    )


def test_smoothing_and_flips_for_each_pair():
    chosen, rejected = jnp.float32([1.0, 1.0, 1.0]), jnp.zeros(3)
    loss = bradley_terry_loss(chosen, rejected, label_smoothing=jnp.float32([0.0, 0.1, 1.0]))
    np.testing.assert_allclose(loss, [0.313262, 0.413262, 1.313262], atol=6e-7)


def test_noise_correction_known_values_and_its_slope():
    one, zero = jnp.float32(1.0), jnp.float32(0.0)
    value, slope = jax.value_and_grad(noise_corrected_bradley_terry_loss)(one, zero, flip_probability=0.1)
    assert float(value) == pytest.approx(0.378560, abs=6e-7)
    s = 1 / (1 + math.exp(-1))
    assert float(slope) == pytest.approx(-0.8 * s * (1 - s) / (0.9 * s + 0.1 * (1 - s)), rel=1e-5)
    far = noise_corrected_bradley_terry_loss(jnp.float32([1e4, -1e4]), jnp.zeros(2), flip_probability=0.1)
    np.testing.assert_allclose(far, [-math.log(0.9), -math.log(0.1)], rtol=1e-5)


NUMBER = st.integers(-160, 160).map(lambda i: i / 8)
REWARDS = arrays(np.float32, (6,), elements=NUMBER)


@settings(max_examples=30, deadline=None)
@given(REWARDS, REWARDS, st.floats(0, 0.4375, width=32), st.floats(-3, 3, width=32))
def test_what_the_losses_of_judges_share(chosen, rejected, flips, shift):
    chosen, rejected = jnp.asarray(chosen), jnp.asarray(rejected)
    plain = bradley_terry_loss(chosen, rejected)
    np.testing.assert_array_equal(bradley_terry_loss(chosen, rejected, margin=0.0), plain)
    np.testing.assert_allclose(plain, dpo_loss(chosen, rejected, beta=1.0), rtol=1e-6)
    listed = plackett_luce_loss(jnp.stack([chosen, rejected], axis=-1), jnp.ones((6, 2)))
    np.testing.assert_allclose(plain, listed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        noise_corrected_bradley_terry_loss(chosen, rejected, flip_probability=0.0), plain, rtol=1e-6
    )
    noisy = noise_corrected_bradley_terry_loss(chosen, rejected, flip_probability=flips)
    s = 1 / (1 + np.exp(-(np.float64(chosen) - np.float64(rejected))))
    np.testing.assert_allclose(noisy, -np.log((1 - flips) * s + flips * (1 - s)), rtol=1e-4, atol=1e-6)
    # A margin is subtracted, a constant drops out, of a two-input model too.
    np.testing.assert_allclose(
        bradley_terry_loss(chosen, rejected, margin=shift),
        bradley_terry_loss(chosen - shift, rejected),
        rtol=1e-4,
        atol=1e-5,
    )
    of_pairs = preference_model_loss(chosen - rejected, rejected - chosen)
    np.testing.assert_allclose(of_pairs, plain, rtol=1e-5, atol=1e-6)
    same = preference_model_loss(chosen + shift, rejected + shift)
    np.testing.assert_allclose(same, preference_model_loss(chosen, rejected), rtol=1e-4, atol=1e-4)
    sums = 2 * score_l2_term(chosen, rejected) - (chosen - rejected) ** 2
    np.testing.assert_allclose(centring_term(chosen, rejected), sums, rtol=1e-4, atol=1e-2)


def test_centring_known_value_gradient_and_what_it_leaves_alone():
    chosen, rejected = jnp.float32([1, 2]), jnp.float32([0, 1])
    assert float(0.01 * centring_term(chosen, rejected).mean()) == pytest.approx(0.05, rel=1e-6)
    slopes = jax.grad(lambda c, r: centring_term(c, r).sum(), argnums=(0, 1))(chosen, rejected)
    np.testing.assert_array_equal(slopes, [[2, 6], [2, 6]])
    # Beside the likelihood of labels with p = 0.8: the difference is logit(p), the sum 0.
    p = 0.8
    rest = math.log(p / (1 - p)) / 2

    def objective(c, r):
        likelihood = bradley_terry_loss(c, r, label_smoothing=1 - p)
        return likelihood + 0.01 * centring_term(c, r)

    found = jax.grad(objective, argnums=(0, 1))(jnp.float32(rest), jnp.float32(-rest))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_the_baseline_reg_of_par():
    chosen, rejected = jnp.float32(1.5), jnp.float32(0.5)
    reg = bradley_terry_loss(chosen, rejected) + 0.005 * score_l2_term(chosen, rejected)
    assert float(reg) == pytest.approx(0.325762, abs=6e-7)
    np.testing.assert_array_equal(jax.grad(score_l2_term, argnums=(0, 1))(chosen, rejected), [3.0, 1.0])
    # With coefficient c it rests, antisymmetric, at the difference of σ(-d) = c d: also of labels that all agree.
    d = 3.0
    c = 1 / (1 + math.exp(d)) / d

    def objective(x, y):
        return bradley_terry_loss(x, y) + c * score_l2_term(x, y)

    np.testing.assert_allclose(
        jax.grad(objective, argnums=(0, 1))(jnp.float32(d / 2), jnp.float32(-d / 2)), 0.0, atol=1e-6
    )
