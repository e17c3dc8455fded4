"""Entropy: quantiles over a whole step, masks, a bonus whose optimum is known, and two controllers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.losses import (
    adapted_entropy_coef,
    adapted_kl_coef,
    entropy,
    entropy_bonus,
    entropy_threshold,
    high_entropy_mask,
    kl_exact,
)

TEN = jnp.float32([0.1, 0.5, 0.2, 0.9, 0.4, 0.3, 0.8, 0.05, 0.6, 0.7])


@pytest.mark.parametrize("garbage", [0.0, 1e9, np.nan])
def test_the_most_undecided_fifth(garbage):
    entropies = jnp.append(TEN, garbage).reshape(1, 11)
    mask = jnp.append(jnp.ones(10), 0.0).reshape(1, 11)
    threshold = jax.jit(entropy_threshold)(entropies, mask)
    assert float(threshold) == pytest.approx(0.72, abs=1e-6)
    found = high_entropy_mask(entropies, mask, threshold)
    np.testing.assert_array_equal(found[0], jnp.append((TEN > 0.75).astype(jnp.float32), 0.0))


def test_all_tokens_and_none():
    everything = entropy_threshold(TEN, jnp.ones(10), fraction=1.0)
    np.testing.assert_array_equal(high_entropy_mask(TEN, jnp.ones(10), everything), 1.0)
    nothing = entropy_threshold(TEN, jnp.zeros(10))
    np.testing.assert_array_equal(high_entropy_mask(TEN, jnp.ones(10), nothing), 0.0)


def test_the_threshold_is_of_all_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    entropies = jax.random.uniform(jax.random.key(0), (8, 5))
    mask = jnp.asarray(np.arange(5) < np.array([5, 0, 3, 1, 5, 2, 4, 5])[:, None], jnp.float32)
    placed = jax.device_put((entropies, mask), NamedSharding(mesh, PartitionSpec("data")))
    oracle = np.quantile(np.asarray(entropies)[np.asarray(mask) == 1], 0.8)
    for arguments in ((entropies, mask), placed):
        assert float(jax.jit(entropy_threshold)(*arguments)) == pytest.approx(oracle, abs=1e-6)


def test_a_bonus_on_one_token_finds_the_softmax_of_the_reward():
    reward, coef, optimizer = jnp.float32([1.0, 0.2, -0.5]), 0.5, optax.adam(0.05)

    def loss(logits):
        return entropy_bonus(entropy(logits), coef=coef) - jax.nn.softmax(logits) @ reward

    def step(carry, _):
        logits, state = carry
        updates, state = optimizer.update(jax.grad(loss)(logits), state)
        return (optax.apply_updates(logits, updates), state), None

    (logits, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, optimizer.init(x)), None, length=800))(
        jnp.zeros(3)
    )
    np.testing.assert_allclose(jax.nn.softmax(logits), jax.nn.softmax(reward / coef), atol=1e-4)


def test_the_bonus_is_a_price_of_kl_to_the_uniform_policy():
    logits = jax.random.normal(jax.random.key(1), (6, 5))
    bonus, kl = entropy_bonus(entropy(logits), coef=0.3), kl_exact(logits, jnp.zeros((6, 5)))
    np.testing.assert_allclose(bonus, 0.3 * kl - 0.3 * np.log(5), atol=1e-6)


def test_the_adaptive_coefficient_of_entropy():
    for before, measured, after in ((0.1, 0.15, 0.105), (0.1, 0.2, 0.105), (0.1, 0.3, 0.095)):
        assert float(adapted_entropy_coef(before, measured)) == pytest.approx(after, abs=1e-7)
    assert float(adapted_entropy_coef(0.0, 9.0)) == 0.0
    assert float(adapted_entropy_coef(0.999, 0.0)) == 1.0


def test_the_adaptive_price_of_kl():
    assert float(adapted_kl_coef(0.1, 0.08, target=0.06, num_samples=256)) == pytest.approx(
        0.100512, abs=1e-8
    )
    assert float(adapted_kl_coef(0.1, 0.06, target=0.06, num_samples=256)) == pytest.approx(0.1, abs=1e-8)
    # Inside the clip it is proportional to the error.
    found = adapted_kl_coef(0.1, 0.066, target=0.06, num_samples=256)
    assert float(found) == pytest.approx(0.1 * (1 + 0.1 * 256 / 1e4), abs=1e-8)


@given(st.floats(0, 1, width=32), st.floats(0, 10, width=32))
@settings(max_examples=30, deadline=None)
def test_coefficients_stay_in_bounds(coef, measured):
    assert 0 <= float(adapted_entropy_coef(coef, measured)) <= 1
    moved = float(adapted_kl_coef(coef, measured, target=1.0, num_samples=100))
    assert coef * 0.998 - 1e-6 <= moved <= coef * 1.002 + 1e-6
