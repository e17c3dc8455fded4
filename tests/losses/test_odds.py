"""Odds: written numbers, the whole range of probabilities, completions that are certain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import odds_ratio_loss, orpo_loss, simpo_loss, unlikelihood_loss

# Averages of 6, 10 and 7, 8 tokens.
AVERAGES = jnp.float32([-2.0, -2.0]), jnp.float32([-2.0, -2.3125])

SLOPES = jax.jit(jax.grad(odds_ratio_loss, argnums=(0, 1)))


def test_written_numbers_and_slopes():
    np.testing.assert_allclose(0.1 * odds_ratio_loss(*AVERAGES), [0.06931472, 0.05318755], atol=1e-7)
    np.testing.assert_allclose(orpo_loss(*AVERAGES, beta=0.1), [2.06931472, 2.05318755], atol=1e-6)
    found = jax.jit(jax.grad(lambda a: orpo_loss(*a, beta=0.1).sum()))(AVERAGES)
    # By hand: -σ(-Δ)/(1 - p) with Δ = 0 and 0.35364855, p = e^a.
    wrong = 1 / (1 + np.exp([0.0, 0.35364855]))
    np.testing.assert_allclose(found[0], -1 - 0.1 * wrong / (1 - np.exp(-2.0)), rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.1 * wrong / (1 - np.exp([-2.0, -2.3125])), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-20, -1e-3), st.floats(-20, -1e-3), st.floats(0, 2))
def test_relatives(a, b, beta):
    a, b, beta = map(jnp.float32, (a, b, beta))
    assert float(odds_ratio_loss(a, a)) == pytest.approx(np.log(2), rel=1e-6)
    assert float(orpo_loss(a, a, beta=beta)) == pytest.approx(float(-a + beta * np.log(2)), rel=1e-5)
    assert float(orpo_loss(a, b, beta=0.0)) == pytest.approx(float(-a), rel=1e-6)
    # log odds = log p - log(1 - p).
    odds = [x + unlikelihood_loss(x[None])[0] for x in (a, b)]
    assert float(odds_ratio_loss(a, b)) == pytest.approx(float(jax.nn.softplus(odds[1] - odds[0])), rel=1e-6)
    # Where both are improbable the odds are the probabilities.
    rare = odds_ratio_loss(a - 20, b - 20)
    assert float(rare) == pytest.approx(float(simpo_loss(a, b, beta=1.0, gamma=0.0)), rel=1e-5, abs=1e-6)


def test_one_pair_comes_to_rest_where_the_log_odds_differ_by_the_logit():
    p, low = 0.8, jnp.float32(-1.5)
    odds = np.exp(-1.5) / (1 - np.exp(-1.5)) * p / (1 - p)
    high = jnp.float32(np.log(odds / (1 + odds)))
    slope = jax.jit(jax.grad(lambda a: p * odds_ratio_loss(a, low) + (1 - p) * odds_ratio_loss(low, a)))
    assert float(slope(high)) == pytest.approx(0, abs=1e-6)
    assert float(slope(high - 0.1)) < 0 < float(slope(high + 0.05))


@pytest.mark.parametrize("a", [-1e-4, -0.1, -0.6931472, -0.7, -3.0, -30.0])
@pytest.mark.parametrize("b", [-1e-4, -0.5, -20.0])
def test_log_odds_over_the_whole_range(a, b):
    exact = np.logaddexp(0.0, (np.float64(b) - np.log(-np.expm1(b))) - (np.float64(a) - np.log(-np.expm1(a))))
    assert float(odds_ratio_loss(jnp.float32(a), jnp.float32(b))) == pytest.approx(exact, rel=2e-5, abs=1e-12)
    slope = SLOPES(jnp.float32(a), jnp.float32(b))[0]
    odds_a, odds_b = np.exp(a) / -np.expm1(a), np.exp(b) / -np.expm1(b)
    assert float(slope) == pytest.approx(-odds_b / (odds_a + odds_b) / -np.expm1(a), rel=2e-4, abs=1e-12)


def test_a_completion_that_is_certain_does_not_end_the_run():
    certain, other = jnp.float32(0.0), jnp.float32(-2.0)
    value, slopes = odds_ratio_loss(certain, other), SLOPES(certain, other)
    assert float(value) < 1e-6
    assert np.all(np.isfinite(slopes))
    value, slopes = odds_ratio_loss(other, certain), SLOPES(other, certain)
    assert 10 < float(value) < 30
    assert np.all(np.isfinite(slopes))
    assert float(odds_ratio_loss(certain, certain)) == pytest.approx(np.log(2), rel=1e-6)
