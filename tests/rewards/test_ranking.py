"""Ranking accuracy of policies and of the optimum: a batch worked by hand, the theorem, its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.losses import dpo_loss, ipo_loss
from prefjax.rewards import (
    dpo_optimal_margin,
    dpo_ranking_threshold,
    idealised_ranking_accuracy,
    ranking_accuracy,
)

CHOSEN, REJECTED = jnp.float32([-50, -80, -40]), jnp.float32([-48, -90, -40.5])
REFERENCE = jnp.float32([-52, -85, -45]), jnp.float32([-47, -88, -44])
LENGTHS = jnp.float32([20, 40, 15]), jnp.float32([25, 30, 18])
LOGPS = arrays(np.float32, (20,), elements=st.floats(-30, 0, width=32))


def test_written_thresholds():
    beta = jnp.float32([0.1, 0.1, 0.1, 0.1, 1, 0.01])
    c = jnp.float32([2, 10, -2, 50, 2, 50])
    found = jax.vmap(lambda c, beta: dpo_ranking_threshold(-c, jnp.float32(0), beta=beta))(c, beta)
    expected = [0.5981388694, 0.3132616875, 0.7981388694, 0.0067153485, 0.1269280110, 0.4740769842]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    slope = jax.grad(lambda c: dpo_ranking_threshold(-c, jnp.float32(0), beta=0.1))(jnp.float32(10))
    assert float(slope) == pytest.approx(-0.1 * (1 - 1 / (1 + np.exp(-1))), rel=1e-5)


@pytest.mark.parametrize(
    ("alpha", "beta", "reference", "margin"),
    [
        (0.75, 1.0, -0.5, 0.5986122887),
        (0.75, 1.0, -2.0, -0.9013877113),
        (0.75, 0.1, -5.0, 5.9861228867),
        (0.999, 10.0, -0.5, 0.1906754779),
        (1.0, 10.0, -1.0, -0.3093245221),  # held at 0.999
        (0.6, 0.1, -4.0, 0.0546510811),
        (0.6, 0.1, -4.1, -0.0453489189),
        (0.5, 0.1, 0.3, 0.3),
    ],
)
def test_written_margins_of_the_optimum(alpha, beta, reference, margin):
    arguments = jnp.float32(reference), jnp.float32(0), jnp.float32(alpha)
    assert float(dpo_optimal_margin(*arguments, beta=beta)) == pytest.approx(margin, abs=3e-6)
    assert float(idealised_ranking_accuracy(*arguments, beta=beta)) == float(margin > 0)


def test_the_batch_of_the_card():
    ratios = CHOSEN - REFERENCE[0], REJECTED - REFERENCE[1]
    loss = dpo_loss(*ratios, beta=0.1)
    np.testing.assert_allclose(loss, [0.5543552445, 0.4031860489, 0.6209570478], rtol=1e-6)
    threshold = dpo_ranking_threshold(*REFERENCE, beta=0.1)
    np.testing.assert_allclose(threshold, [0.4740769842, 0.8543552445, 0.6443966601], rtol=1e-6)
    right = ranking_accuracy(CHOSEN, REJECTED)
    np.testing.assert_array_equal(right, [0, 1, 1])
    np.testing.assert_array_equal(right, loss <= threshold)
    np.testing.assert_array_equal(ranking_accuracy(*ratios), [1, 1, 1])  # another metric
    averaged = ranking_accuracy(CHOSEN / LENGTHS[0], REJECTED / LENGTHS[1])
    np.testing.assert_array_equal(averaged, [0, 1, 0])
    # IPO of τ = 0.1 rests, at α = 1, at 5 nats beyond the reference.
    rest = REFERENCE[0] - REFERENCE[1] + 5
    np.testing.assert_array_equal(rest, [0, 8, 4])
    np.testing.assert_allclose(ipo_loss(jnp.full(3, 5.0), jnp.zeros(3), beta=0.1), 0.0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(LOGPS, LOGPS, LOGPS, LOGPS, st.floats(0.0625, 4, width=32), st.floats(0, 2, width=32))
def test_a_pair_is_right_where_its_loss_is_below_the_threshold(chosen, rejected, ref_c, ref_r, beta, gamma):
    far = np.abs(beta * (chosen - rejected)) > 1e-3
    z = beta * (chosen - rejected - gamma * (ref_c - ref_r))
    far &= np.abs(z) < 15  # nearer to 0 a loss of 1e-7 is rounding
    loss = dpo_loss(jnp.asarray(z), jnp.zeros(20), beta=1.0)
    threshold = dpo_ranking_threshold(
        jnp.asarray(ref_c), jnp.asarray(ref_r), beta=beta, reference_weight=gamma
    )
    right = ranking_accuracy(jnp.asarray(chosen), jnp.asarray(rejected)) == 1
    np.testing.assert_array_equal(np.asarray(loss <= threshold)[far], np.asarray(right)[far])
    none = dpo_ranking_threshold(jnp.asarray(ref_c), jnp.asarray(ref_r), beta=beta, reference_weight=0.0)
    np.testing.assert_allclose(none, np.log(2), rtol=1e-6)
    # Where the reference is right and the loss at most 0.6, the policy is right (proposition 2.6).
    sure = (ref_c >= ref_r) & (np.asarray(loss) <= 0.6) & (gamma <= 1)
    assert np.all(np.asarray(right)[sure & far])


@settings(max_examples=30, deadline=None)
@given(LOGPS, LOGPS, arrays(np.float32, (20,), elements=st.floats(0.625, 1, width=32)))
def test_limits_of_beta(chosen, rejected, alpha):
    arrays_ = jnp.asarray(chosen), jnp.asarray(rejected), jnp.asarray(alpha)
    np.testing.assert_array_equal(idealised_ranking_accuracy(*arrays_, beta=1e-5), 1.0)
    apart = np.abs(chosen - rejected) > 1e-3
    of_reference = ranking_accuracy(*arrays_[:2])
    frozen = idealised_ranking_accuracy(*arrays_, beta=1e6)
    np.testing.assert_array_equal(np.asarray(frozen)[apart], np.asarray(of_reference)[apart])
    coin = jnp.full(20, 0.5)
    np.testing.assert_array_equal(dpo_optimal_margin(*arrays_[:2], coin, beta=0.1), chosen - rejected)


@pytest.mark.parametrize("alpha", [0.75, 0.9])
def test_the_optimum_is_where_the_loss_rests(alpha):
    """Against DPO itself: the expected loss of a pair, over labels, has its gradient's root there."""
    reference = jnp.float32(-3.0), jnp.float32(-1.0)

    def expected_loss(margin):
        ratio = margin - (reference[0] - reference[1])
        one, other = dpo_loss(ratio, jnp.zeros(()), beta=0.5), dpo_loss(jnp.zeros(()), ratio, beta=0.5)
        return alpha * one + (1 - alpha) * other

    rest = dpo_optimal_margin(*reference, jnp.float32(alpha), beta=0.5)
    assert float(jax.grad(expected_loss)(rest)) == pytest.approx(0.0, abs=1e-6)


def test_what_is_nan_stays_visible():
    nan, one = jnp.float32(np.nan), jnp.float32(1)
    assert np.isnan(idealised_ranking_accuracy(nan, one, one, beta=1.0))
    assert np.isnan(dpo_ranking_threshold(nan, one, beta=1.0))
