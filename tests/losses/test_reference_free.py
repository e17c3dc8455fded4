"""Losses without a reference: written numbers, identities, and odds where probabilities round to one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import cpo_loss, dpo_loss, odds_ratio_loss, orpo_loss, simpo_loss

# Sums (-12, -20) and (-14, -18.5) of 6, 10 and 7, 8 tokens.
CHOSEN, REJECTED = jnp.float32([-12.0, -20.0]), jnp.float32([-14.0, -18.5])
AVERAGES = jnp.float32([-2.0, -2.0]), jnp.float32([-2.0, -2.3125])


def test_written_numbers():
    np.testing.assert_allclose(cpo_loss(CHOSEN, REJECTED, beta=0.1), [0.59813887, 0.77095705], atol=1e-7)
    np.testing.assert_allclose(
        simpo_loss(*AVERAGES, beta=2.0, gamma=0.5), [0.97407698, 0.63259904], atol=2e-7
    )
    np.testing.assert_allclose(
        simpo_loss(*AVERAGES, beta=2.5, gamma=1.375), [1.60041265, 1.03345707], atol=2e-7
    )
    np.testing.assert_allclose(0.1 * odds_ratio_loss(*AVERAGES), [0.06931472, 0.05318755], atol=1e-7)
    np.testing.assert_allclose(orpo_loss(*AVERAGES, beta=0.1), [2.06931472, 2.05318755], atol=1e-6)


def test_cpo_is_dpo_with_a_uniform_reference_and_simpo_its_average():
    np.testing.assert_allclose(
        cpo_loss(CHOSEN, REJECTED, beta=0.1, label_smoothing=0.1),
        dpo_loss(CHOSEN, REJECTED, beta=0.1, label_smoothing=0.1),
    )
    # Of equal lengths n: SimPO with γ = 0 and β n is CPO.
    np.testing.assert_allclose(
        simpo_loss(CHOSEN / 8, REJECTED / 8, beta=0.8, gamma=0.0),
        cpo_loss(CHOSEN, REJECTED, beta=0.1),
        rtol=1e-6,
    )


@pytest.mark.parametrize("a", [-1e-4, -0.1, -0.6931472, -0.7, -3.0, -30.0])
@pytest.mark.parametrize("b", [-1e-4, -0.5, -20.0])
def test_log_odds_over_the_whole_range(a, b):
    exact = np.logaddexp(0.0, (np.float64(b) - np.log(-np.expm1(b))) - (np.float64(a) - np.log(-np.expm1(a))))
    assert float(odds_ratio_loss(jnp.float32(a), jnp.float32(b))) == pytest.approx(exact, rel=2e-5, abs=1e-12)
    slope = jax.grad(lambda a: odds_ratio_loss(a, jnp.float32(b)))(jnp.float32(a))
    odds_a, odds_b = np.exp(a) / -np.expm1(a), np.exp(b) / -np.expm1(b)
    assert float(slope) == pytest.approx(-odds_b / (odds_a + odds_b) / -np.expm1(a), rel=2e-4, abs=1e-12)


def test_a_completion_that_is_certain_does_not_end_the_run():
    certain, other = jnp.float32(0.0), jnp.float32(-2.0)
    value, slopes = jax.value_and_grad(odds_ratio_loss, argnums=(0, 1))(certain, other)
    assert float(value) < 1e-6
    assert np.all(np.isfinite(slopes))
    value, slopes = jax.value_and_grad(odds_ratio_loss, argnums=(0, 1))(other, certain)
    assert 10 < float(value) < 30
    assert np.all(np.isfinite(slopes))
    assert float(odds_ratio_loss(certain, certain)) == pytest.approx(np.log(2), rel=1e-6)
