"""Unlikelihood: written numbers, one minus a probability at both ends, padding, and what it imitates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import nll_loss, unlikelihood_loss, unlikelihood_pair_loss

BOTH = jax.jit(jax.value_and_grad(lambda x: unlikelihood_loss(x)[0]))


def test_written_numbers_and_slopes():
    logps = jnp.log(jnp.float32([0.5, 0.9, 0.01]))
    value, slope = unlikelihood_loss(logps), jax.jit(jax.grad(lambda x: unlikelihood_loss(x).sum()))(logps)
    np.testing.assert_allclose(value, [0.69314718, 2.30258509, 0.01005034], rtol=1e-5)
    np.testing.assert_allclose(slope, [1.0, 9.0, 0.01 / 0.99], rtol=1e-5)
    pair = jnp.log(jnp.float32([0.5, 0.25])), jnp.log(jnp.float32([0.5, 0.75]))
    ones = jnp.ones(2)
    # log 8 of the chosen tokens; log 2 + log 4 of the rejected ones.
    for alpha, value in ((0.0, 3 * np.log(2)), (1.0, 6 * np.log(2)), (0.5, 4.5 * np.log(2))):
        loss = unlikelihood_pair_loss(*pair, ones, ones, alpha=alpha)
        assert float(loss) == pytest.approx(value, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(-80, -1e-6))
def test_the_whole_range_and_the_sum_with_likelihood(logp):
    loss, slope = BOTH(jnp.float32([logp]))
    logp = np.float64(np.float32(logp))
    assert float(loss) == pytest.approx(-np.log(-np.expm1(logp)), rel=1e-4)
    assert float(slope[0]) == pytest.approx(1 / np.expm1(-logp), rel=1e-4)
    # e^-nll + e^-unlikelihood = 1.
    both = np.exp(-np.float64(loss)) + np.exp(-np.float64(nll_loss(jnp.float32([logp]))[0]))
    assert both == pytest.approx(1.0, abs=1e-6)


def test_a_certain_token_is_finite_and_has_no_slope():
    loss, slope = BOTH(jnp.zeros(1))
    assert float(loss) == pytest.approx(-np.log(np.finfo(np.float32).eps), rel=1e-5)  # 15.9
    assert float(slope[0]) == 0.0


@pytest.mark.parametrize("garbage", [0.0, 5.0, np.nan, -np.inf])
def test_padding_of_either_completion_may_hold_anything(garbage):
    chosen, rejected = jnp.float32([-1.0, -2.0, garbage]), jnp.float32([-0.5, garbage, garbage])
    masks = jnp.float32([1, 1, 0]), jnp.float32([1, 0, 0])
    value, slopes = jax.value_and_grad(unlikelihood_pair_loss, argnums=(0, 1))(chosen, rejected, *masks)
    assert float(value) == pytest.approx(3.0 - np.log(1 - np.exp(-0.5)), rel=1e-6)
    np.testing.assert_array_equal(slopes[0], [-1.0, -1.0, 0.0])
    np.testing.assert_allclose(slopes[1], [1 / np.expm1(0.5), 0.0, 0.0], rtol=1e-5)


def test_a_token_that_is_liked_with_probability_p_comes_to_rest_there():
    """The same completion, chosen with probability p and rejected otherwise; nothing on the other side."""
    p, one, none = 0.7, jnp.ones(1), jnp.zeros(1)

    def mean(logp):
        liked = unlikelihood_pair_loss(logp[None], logp[None], one, none)
        return p * liked + (1 - p) * unlikelihood_pair_loss(logp[None], logp[None], none, one)

    slope = jax.jit(jax.grad(mean))
    assert float(slope(jnp.log(p))) == pytest.approx(0.0, abs=1e-6)
    assert float(slope(jnp.log(0.6))) < 0 < float(slope(jnp.log(0.8)))
