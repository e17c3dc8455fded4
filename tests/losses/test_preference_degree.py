"""The degree of damage: written numbers, the gradient of a head, and what a head that knows nothing costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import preference_degree_loss

LOGITS = jnp.float32([[2, 0, -1], [0.5, 0.5, 0], [-1, 0, 1.5]])


def test_written_numbers():
    loss = preference_degree_loss(LOGITS, jnp.array([0, 1, 2]))
    np.testing.assert_allclose(loss, [0.1698460196, 0.9580200879, 0.2663678998], atol=1e-7)
    assert float(loss.mean()) == pytest.approx(0.4647446691, rel=1e-6)
    for degrees, written in ((3, 1.0986122887), (4, 1.3862943611)):
        unknowing = preference_degree_loss(jnp.zeros((2, degrees)), jnp.array([0, degrees - 1]))
        np.testing.assert_allclose(unknowing, written, rtol=1e-6)


def test_a_head_of_zeros_moves_and_what_is_below_it_does_not_yet():
    hidden = jax.random.normal(jax.random.key(0), (5, 2))
    degree = jnp.array([0, 1, 2, 3, 1])

    def mean(hidden, head):
        return preference_degree_loss(hidden @ head, degree).mean()

    by_hidden, by_head = jax.grad(mean, argnums=(0, 1))(hidden, jnp.zeros((2, 4)))
    np.testing.assert_array_equal(by_hidden, 0.0)
    wrong = 0.25 - jax.nn.one_hot(degree, 4)
    np.testing.assert_allclose(by_head, hidden.T @ wrong / 5, rtol=1e-5, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4).map(np.float32), min_size=4, max_size=4), st.integers(0, 3))
def test_finite_and_no_steeper_than_one(logits, degree):
    value, slope = jax.value_and_grad(preference_degree_loss)(
        jnp.asarray(np.array(logits)), jnp.array(degree)
    )
    assert np.isfinite(value)
    assert value >= 0
    assert float(jnp.abs(slope).max()) <= 1 + 1e-6
    assert float(slope.sum()) == pytest.approx(0.0, abs=1e-5)
