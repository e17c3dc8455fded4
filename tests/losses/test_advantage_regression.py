"""A*-PO: by hand, and on a bandit its loss is 0 at the regularised optimum and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.losses import a_star_po_loss
from prefjax.returns import soft_values

REWARDS = jnp.float32([1.0, 0.0, 0.3, -0.5])


def test_by_hand():
    value, slope = jax.value_and_grad(a_star_po_loss)(
        jnp.float32(2.0), jnp.float32(1.0), jnp.float32(0.4), beta=0.1
    )
    assert float(value) == pytest.approx((0.2 - 0.6) ** 2, rel=1e-6)
    assert float(slope) == pytest.approx(2 * 0.1 * (0.2 - 0.6), rel=1e-6)
    fixed = jax.grad(lambda pair: a_star_po_loss(jnp.float32(2.0), *pair, beta=0.1))(
        (jnp.float32(1.0), jnp.float32(0.4))
    )
    assert fixed == (0.0, 0.0)


def test_from_all_arms_it_finds_the_regularised_optimum():
    beta, optimizer = 0.4, optax.adam(0.03)
    values = jnp.broadcast_to(soft_values(REWARDS, beta=beta), (4,))

    def loss(logits):
        return a_star_po_loss(jax.nn.log_softmax(logits) + jnp.log(4.0), REWARDS, values, beta=beta).mean()

    def step(carry, _):
        logits, state = carry
        updates, state = optimizer.update(jax.grad(loss)(logits), state)
        return (optax.apply_updates(logits, updates), state), loss(logits)

    start = jnp.zeros(4)
    (logits, _), losses = jax.jit(
        lambda logits: jax.lax.scan(step, (logits, optimizer.init(logits)), None, length=1500)
    )(start)
    assert float(losses[-1]) < 1e-9
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(REWARDS / beta), atol=1e-4)
