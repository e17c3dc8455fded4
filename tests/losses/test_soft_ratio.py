"""SAPO and VESPO: their limits, and how steep they are at most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import cispo_loss, ppo_clip_loss, reinforce_loss, sapo_loss, vespo_loss

RATIOS = np.exp(np.linspace(-6, 6, 4001))
NO_CLIP = {"epsilon_low": jnp.inf, "epsilon_high": jnp.inf}
SLOPES = {
    name: jax.jit(jax.grad(loss))
    for name, loss in {
        "sapo": sapo_loss,
        "no clip": lambda *tensors: ppo_clip_loss(*tensors, **NO_CLIP),
        "cispo": cispo_loss,
        "reinforce": lambda logps, _, advantages: reinforce_loss(logps, advantages),
    }.items()
}
# XLA flushes subnormal numbers to 0.
NUMBERS = tuple(st.floats(-3, high, width=32, allow_subnormal=False) for high in (0, 0, 3))


def slopes(loss, advantage, **settings):
    """At every ratio, of sequences of one token."""
    new = jnp.log(jnp.float32(RATIOS))[:, None]
    advantages = jnp.full(new.shape if loss is sapo_loss else new.shape[:1], advantage)
    masks = () if loss is sapo_loss else (jnp.ones(new.shape),)
    gradient = jax.grad(lambda x: loss(x, jnp.zeros_like(x), advantages, *masks, **settings).sum())
    return np.asarray(gradient(new))[:, 0]


def test_the_steepest_ratio_of_sapo():
    found = -slopes(sapo_loss, 1.0)
    assert found.max() == pytest.approx(1.5747, abs=2e-4)
    assert RATIOS[found.argmax()] == pytest.approx(2.06, abs=0.01)
    written = 4 * RATIOS / (2 + np.exp(RATIOS - 1) + np.exp(1 - RATIOS))
    np.testing.assert_allclose(found, written, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("advantage", "ratio", "slope"), [(1.0, 2 / 3, 1.2081), (-1.0, 3 / 2, 1.2416)])
def test_the_largest_weight_of_vespo(advantage, ratio, slope):
    found = np.abs(slopes(vespo_loss, advantage))
    assert found.max() == pytest.approx(slope, abs=1e-4)
    assert RATIOS[found.argmax()] == pytest.approx(ratio, abs=0.01)
    k, lambda_ = (2, 3) if advantage > 0 else (3, 2)
    np.testing.assert_allclose(found, RATIOS**k * np.exp(lambda_ * (1 - RATIOS)), rtol=1e-3, atol=1e-6)


def test_log_weights_of_long_sequences_are_bounded_by_themselves():
    new = jnp.broadcast_to(jnp.float32([[-1.0], [1.0]]), (2, 4000))
    gradient = jax.grad(
        lambda x: vespo_loss(x, jnp.zeros_like(x), jnp.float32([-1, 1]), jnp.ones_like(x)).sum()
    )(new)
    np.testing.assert_allclose(gradient[0], 1e-24 * np.exp(2), rtol=1e-3)  # w = 1e-8
    np.testing.assert_array_equal(gradient[1], 0.0)


@given(*NUMBERS)
@settings(max_examples=30, deadline=None)
def test_limits(new, old, advantage):
    tensors = tuple(jnp.float32(x) for x in (new, old, advantage))
    flat = SLOPES["sapo"](*tensors, temperature_positive=1e-3, temperature_negative=1e-3)
    np.testing.assert_allclose(flat, SLOPES["no clip"](*tensors), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        SLOPES["cispo"](*tensors, max_ratio=1.0, min_ratio=1.0), SLOPES["reinforce"](*tensors), rtol=1e-6
    )
    np.testing.assert_allclose(
        SLOPES["cispo"](*tensors, max_ratio=jnp.inf), SLOPES["no clip"](*tensors), rtol=1e-5, atol=1e-6
    )
