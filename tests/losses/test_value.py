"""The loss of a value head: written numbers, and a clip that only ever adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import value_loss
from prefjax.returns import generalized_advantage_estimation

# One completion: V' = (.5, .4, .6, .7), one reward of 1 at its end, γ = 1, λ = .95.
BEHAVIOUR, VALUES = jnp.float32([0.5, 0.4, 0.6, 0.7]), jnp.float32([0.9, 0.3, 0.65, 0.75])
RETURNS = BEHAVIOUR + generalized_advantage_estimation(
    jnp.float32([0, 0, 0, 1]), jnp.append(BEHAVIOUR, 0.0), jnp.ones(4), lambda_=0.95
)


def test_written_numbers():
    np.testing.assert_allclose(RETURNS, [0.9374625, 0.96575, 0.985, 1.0], atol=1e-6)
    loss = value_loss(VALUES, BEHAVIOUR, RETURNS, epsilon=0.2)
    np.testing.assert_allclose(2 * loss, [0.05638844, 0.44322306, 0.112225, 0.0625], atol=1e-6)
    assert float(loss.mean()) == pytest.approx(0.0842920627, abs=1e-7)
    assert float(value_loss(VALUES, BEHAVIOUR, RETURNS).mean()) == pytest.approx(0.0774189377, abs=1e-7)


def test_the_clip_only_adds_and_stops_the_gradient_where_it_does():
    gradient = jax.grad(lambda v: value_loss(v, BEHAVIOUR, RETURNS, epsilon=0.2).sum())(VALUES)
    # The first moved by .4, beyond the clip, towards its return: no more gradient. The others as if not clipped.
    np.testing.assert_allclose(gradient, jnp.where(jnp.arange(4) == 0, 0.0, VALUES - RETURNS), atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, (64,)) for key in keys]
    assert np.all(value_loss(*arrays, epsilon=0.1) >= value_loss(*arrays) - 1e-6)


def test_where_nothing_has_moved_yet_the_clip_is_not_there():
    gradients = [
        jax.grad(lambda v, e=e: value_loss(v, BEHAVIOUR, RETURNS, epsilon=e).sum())(BEHAVIOUR)
        for e in (0.2, jnp.inf)
    ]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)
    np.testing.assert_allclose(gradients[0], BEHAVIOUR - RETURNS, rtol=1e-6)
