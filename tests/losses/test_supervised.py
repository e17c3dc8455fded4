"""The token losses of imitation: their averages, a gradient that is not that of the value, what each finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import dft_loss, nll_loss
from prefjax.types import Weighted


def test_each_token_keeps_its_own_loss():
    logps = jnp.float32([[-1.0, -2.0], [-0.5, -8.0]])
    np.testing.assert_array_equal(nll_loss(logps), [[1.0, 2.0], [0.5, 8.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: nll_loss(x).sum())(logps), -1.0)


def test_the_two_averages_differ_where_lengths_do():
    loss = nll_loss(jnp.float32([[-1.0, -2.0, -3.0, -6.0], [-0.5, -9.0, jnp.nan, -9.0]]))
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert float(Weighted.tokens(loss, mask).mean()) == pytest.approx(12.5 / 5)
    assert float(Weighted.sequences(loss, mask).mean()) == pytest.approx((3.0 + 0.5) / 2)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-60, 0), min_size=3, max_size=3))
def test_the_gradient_of_dft_is_that_of_the_probability(logps):
    logps = jnp.float32(logps)
    value, slope = dft_loss(logps), jax.grad(lambda x: dft_loss(x).sum())(logps)
    np.testing.assert_allclose(value, np.exp(logps) * nll_loss(logps), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(slope, jax.grad(lambda x: -jnp.exp(x).sum())(logps), rtol=1e-6)
    assert np.all(value <= 1 / np.e + 1e-6)


def test_agrees_with_the_lines_of_trl():
    """Its trainer has -log p, times exp(log p) without gradient, summed and divided by the number of tokens."""
    logps = np.array([-0.1, -1.0, -2.5, -20.0])
    assert float(Weighted.tokens(dft_loss(jnp.float32(logps)), jnp.ones(4)).mean()) == pytest.approx(
        (np.exp(logps) * -logps).mean(), rel=1e-6
    )


def test_likelihood_finds_the_distribution_and_dft_its_mode():
    data = np.array([0.5, 0.3, 0.2])

    def mean(loss):
        def of(logits):
            return jnp.sum(data * loss(jax.nn.log_softmax(logits)))

        return jax.jit(jax.grad(of))

    np.testing.assert_allclose(mean(nll_loss)(jnp.log(jnp.float32(data))), 0.0, atol=1e-7)
    slope, logits = mean(dft_loss), jnp.log(jnp.float32(data))
    assert np.abs(slope(logits)).max() > 1e-2
    for _ in range(400):
        logits = logits - slope(logits)
    assert float(jax.nn.softmax(logits)[0]) > 0.97
