"""β-DPO by hand: the moving β, moments of a step, their running means, and what the filter keeps."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.losses import (
    MarginMoments,
    beta_dpo_filter_logits,
    beta_dpo_loss,
    beta_dpo_moments,
    beta_dpo_running_moments,
    dpo_loss,
)

CHOSEN, REJECTED = jnp.float32([1.0, -1.0, 2.0]), jnp.float32([-0.5, 1.0, -2.5])  # margins 1.5, -2, 4.5
SETTING = {"beta": 0.1, "alpha": 0.6}


def test_two_steps_by_hand():
    # Step 1: 1.5, -2 and 4.5 have the mean 4/3; they are 1/6, -10/3 and 19/6 off, squared and halved 127/12.
    found = beta_dpo_moments(CHOSEN, REJECTED, jnp.ones(3))
    np.testing.assert_allclose(found, (4 / 3, math.sqrt(127 / 12)), rtol=1e-6)
    first = beta_dpo_running_moments(MarginMoments(jnp.zeros(()), jnp.zeros(())), found)
    np.testing.assert_allclose(first, (0.4 / 3, 0.1 * math.sqrt(127 / 12)), rtol=1e-6)
    # β = .1 (1 + .6 (1.3333 - .1333)) = .172
    loss, slope = jax.value_and_grad(lambda c: beta_dpo_loss(
        c, jnp.float32(-0.5), batch_margin=found.mean, threshold=first.mean, **SETTING
    ))(jnp.float32(1.0))  # fmt: skip
    assert float(loss) == pytest.approx(math.log1p(math.exp(-0.172 * 1.5)), rel=1e-6)
    assert float(slope) == pytest.approx(-0.172 / (1 + math.exp(0.172 * 1.5)), rel=1e-6)
    # Step 2 has the mean -1: .9 · .13333 - .1.
    second = beta_dpo_running_moments(first, MarginMoments(jnp.float32(-1.0), jnp.float32(2.0)))
    assert float(second.mean) == pytest.approx(0.02, rel=1e-5)


def test_beta_has_a_floor_and_statistics_have_no_gradient():
    floored = beta_dpo_loss(CHOSEN, REJECTED, batch_margin=-50.0, threshold=0.0, **SETTING)
    np.testing.assert_allclose(floored, dpo_loss(CHOSEN, REJECTED, beta=1e-3), rtol=1e-6)

    def through_statistics(chosen):
        margin = (chosen - REJECTED).mean()
        return beta_dpo_loss(chosen, REJECTED, batch_margin=margin, threshold=margin / 2, **SETTING).sum()

    fixed = float((CHOSEN - REJECTED).mean())
    by_hand = jax.grad(
        lambda c: beta_dpo_loss(c, REJECTED, batch_margin=fixed, threshold=fixed / 2, **SETTING).sum()
    )(CHOSEN)
    np.testing.assert_allclose(jax.grad(through_statistics)(CHOSEN), by_hand, rtol=1e-6)
    for statistic in (
        lambda c: jnp.stack(beta_dpo_moments(c, REJECTED, jnp.ones(3))),
        lambda c: beta_dpo_filter_logits(c, REJECTED, threshold=1.0, deviation=2.0),
    ):
        np.testing.assert_array_equal(jax.jacobian(statistic)(CHOSEN), 0.0)


@pytest.mark.parametrize("garbage", [1e4, np.nan, np.inf])
def test_absent_rows_are_in_no_moment(garbage):
    chosen = jnp.concatenate([CHOSEN, jnp.float32([garbage])])
    rejected = jnp.concatenate([REJECTED, jnp.float32([0.0])])
    mask = jnp.array([1, 1, 1, 0])
    alone = beta_dpo_moments(CHOSEN, REJECTED, jnp.ones(3))
    np.testing.assert_allclose(beta_dpo_moments(chosen, rejected, mask), alone, rtol=1e-6)
    np.testing.assert_array_equal(beta_dpo_moments(chosen[:1], rejected[:1], mask[:1]), (1.5, 0.0))
    np.testing.assert_array_equal(beta_dpo_moments(chosen[3:], rejected[3:], mask[3:]), (0.0, 0.0))


@jax.jit
def both_sides(chosen, rejected, mean, beta):
    def moved(beta, alpha, batch_margin, threshold):
        setting = {"beta": beta, "alpha": alpha, "batch_margin": batch_margin, "threshold": threshold}
        return beta_dpo_loss(chosen, rejected, **setting)

    plain = dpo_loss(chosen, rejected, beta=beta)
    in_nats = moved(beta, 0.2, mean, 0.5)
    return {
        "no change": (moved(beta, 0.0, mean, 3.0), plain),
        "settled": (moved(beta, 0.6, mean, mean), plain),
        # A reward's margin is β₀ times ours, with α divided by β₀.
        "in units of reward": (moved(beta, 0.2 / beta, beta * mean, beta * 0.5), in_nats),
    }


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.floats(-30, 30).map(np.float32),
    rejected=st.floats(-30, 30).map(np.float32),
    mean=st.floats(-5, 5).map(np.float32),
    beta=st.floats(0.02, 2).map(np.float32),
)
def test_relatives(chosen, rejected, mean, beta):
    for name, (found, expected) in both_sides(chosen, rejected, mean, beta).items():
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_running_means_forget_the_zero_they_began_with():
    running = MarginMoments(jnp.zeros(()), jnp.zeros(()))
    for n in range(1, 9):
        running = beta_dpo_running_moments(running, MarginMoments(jnp.float32(3.0), jnp.float32(1.0)))
        assert float(running.mean) == pytest.approx((1 - 0.9**n) * 3.0, rel=1e-5)


def test_the_filter_is_a_gaussian_around_the_threshold_and_gumbel_noise_draws_from_it():
    logits = beta_dpo_filter_logits(CHOSEN, REJECTED, threshold=1.5, deviation=2.0)
    np.testing.assert_allclose(logits, [0.0, -(3.5**2) / 8, -(3.0**2) / 8], rtol=1e-6)
    # Two of three, without replacement: the last two drawn in either order, and so on, by enumeration.
    p = np.exp(logits) / np.exp(logits).sum()
    left_out = [
        sum(p[i] * p[j] / (1 - p[i]) for i, j in [(a, b), (b, a)]) for a, b in [(1, 2), (0, 2), (0, 1)]
    ]
    noise = jax.random.gumbel(jax.random.key(0), (20000, 3))
    kept = jax.lax.top_k(logits[None] + noise, 2)[1]
    frequency = [float(jnp.mean(jnp.all(kept != i, axis=-1))) for i in range(3)]
    np.testing.assert_allclose(frequency, left_out, atol=0.015)


def test_the_filter_is_finite_far_out_and_with_no_spread():
    for deviation in (0.0, 2.0):
        logits = beta_dpo_filter_logits(
            jnp.float32([1e4, -1e4, 1.5]), jnp.zeros(3), threshold=1.5, deviation=deviation
        )
        assert np.all(np.isfinite(logits))
        assert logits[2] == 0.0


def test_shapes_that_disagree_are_refused_by_name():
    with pytest.raises(InputError, match=r"beta_dpo_moments: .*mask has shape \(2,\)"):
        inspect.unwrap(beta_dpo_moments)(CHOSEN, REJECTED, jnp.ones(2))
    with pytest.raises(InputError, match=r"beta_dpo_filter_logits: .*has shape \(3, 1\)"):
        inspect.unwrap(beta_dpo_filter_logits)(CHOSEN[:, None], REJECTED, threshold=0.0, deviation=1.0)
