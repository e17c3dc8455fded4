"""log σ against float64, far out, and its slope."""

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.rewards import log_sigmoid, logistic_cross_entropy


def test_log_sigmoid_keeps_its_digits_on_both_sides():
    x = np.concatenate([np.linspace(-100, 80, 2001), [-1e30, -1e4, -1e-9, 0.0, 1e-9]]).astype(np.float32)
    wide = x.astype(np.float64)
    value, slope = jax.vmap(jax.value_and_grad(log_sigmoid))(jnp.asarray(x))
    np.testing.assert_allclose(value, -np.logaddexp(0.0, -wide), rtol=3e-7)
    np.testing.assert_allclose(slope, np.exp(-np.logaddexp(0.0, wide)), rtol=3e-7, atol=1e-37)


def test_log_sigmoid_where_nothing_is_left():
    value, slope = jax.vmap(jax.value_and_grad(log_sigmoid))(jnp.asarray([-jnp.inf, 1e4, jnp.inf]))
    np.testing.assert_array_equal(value, [-np.inf, 0.0, 0.0])
    np.testing.assert_array_equal(slope, [1.0, 0.0, 0.0])
    assert np.isnan(log_sigmoid(jnp.float32(np.nan)))


def test_slope_at_zero_is_a_half_and_its_own_slope_that_of_the_logistic_function():
    assert jax.grad(log_sigmoid)(0.0) == 0.5
    second = jax.vmap(jax.grad(jax.grad(log_sigmoid)))(jnp.linspace(-5.0, 5.0, 11))
    x = np.linspace(-5.0, 5.0, 11)
    np.testing.assert_allclose(second, -1 / (2 + 2 * np.cosh(x)), rtol=1e-5)


def test_it_is_jaxs():
    x = jnp.linspace(-30.0, 30.0, 601)
    np.testing.assert_allclose(log_sigmoid(x), jax.nn.log_sigmoid(x), rtol=3e-7)


def test_cross_entropy_keeps_its_digits_where_the_loss_is_small():
    x = np.concatenate([np.linspace(-60, 60, 481), [-1e4, 1e4]]).astype(np.float32)
    wide = x.astype(np.float64)
    both = jax.jit(
        jax.vmap(jax.value_and_grad(lambda x, wrong: logistic_cross_entropy(x, wrong=wrong)), (0, None))
    )
    for wrong in (0.0, 0.1, 0.5, 0.7, 1.0):
        right = 1 - np.float64(np.float32(wrong))
        expected = right * np.logaddexp(0.0, -wide) + (1 - right) * np.logaddexp(0.0, wide)
        value, slope = both(jnp.asarray(x), wrong)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        # σ(x) - (1 - ε) or ε - σ(-x): of the two the one that does not cancel.
        both_sides = np.exp(-np.logaddexp(0.0, -wide)) - right, 1 - right - np.exp(-np.logaddexp(0.0, wide))
        np.testing.assert_allclose(slope, both_sides[wrong <= 0.5], rtol=1e-5, atol=1e-37)


def test_one_label_for_all_or_one_each():
    x = jnp.linspace(-3.0, 3.0, 7)
    each = logistic_cross_entropy(x, wrong=jnp.full(7, 0.2))
    np.testing.assert_array_equal(logistic_cross_entropy(x, wrong=0.2), each)
