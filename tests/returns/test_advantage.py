"""Returns and advantages: worked trajectories, identities, and rlax."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from prefjax.returns import discounted_returns, generalized_advantage_estimation

REWARDS = [1, 0, -1, 2, 0.5]
VALUES = [0.2, 0.4, -0.3, 1, 0.6, 0.8]


def gae(rewards, values, discounts, lambda_):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, jnp.float64) for x in (rewards, values, discounts))
        return np.asarray(generalized_advantage_estimation(*arrays, lambda_=lambda_))


def returns(rewards, discounts, bootstrap_value):
    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, jnp.float64) for x in (rewards, discounts, bootstrap_value))
        return np.asarray(discounted_returns(*arrays))


def test_five_steps_by_hand():
    advantages = gae(REWARDS, VALUES, [0.9] * 5, 0.8)
    np.testing.assert_allclose(advantages, [1.522699827, 0.50374976, 1.630208, 1.9864, 0.62], atol=6e-10)
    lambda_returns = [1.722699827, 0.90374976, 1.330208, 2.9864, 1.22]
    np.testing.assert_allclose(advantages + VALUES[:5], lambda_returns, atol=6e-10)
    expected = [2.448442, 1.60938, 1.7882, 3.098, 1.22]
    np.testing.assert_allclose(returns(REWARDS, [0.9] * 5, VALUES[-1]), expected, atol=1e-12)


def test_an_episode_that_ends_inside_the_window():
    advantages = gae(REWARDS, VALUES, [0.9, 0.9, 0.0, 0.9, 0.9], 0.8)
    np.testing.assert_allclose(advantages, [0.31472, -1.174, -0.7, 1.9864, 0.62], atol=1e-12)
    # What comes after the end has no effect on what was before.
    other = gae([1, 0, -1, 7, 7], [0.2, 0.4, -0.3, 9, 9, 9], [0.9, 0.9, 0.0, 0.9, 0.9], 0.8)
    np.testing.assert_array_equal(other[:3], advantages[:3])


def test_cut_off_inside_the_window_is_two_windows():
    # Truncated after step 2, the state there worth .7: two windows, the first with its own last value.
    first = gae(REWARDS[:3], [*VALUES[:3], 0.7], [0.9] * 3, 0.8)
    second = gae(REWARDS[3:], VALUES[3:], [0.9] * 2, 0.8)
    np.testing.assert_allclose([*first, *second], [0.641312, -0.7204, -0.07, 1.9864, 0.62], atol=1e-12)


def test_padding_after_the_end_is_harmless():
    advantages = gae([1, 2, 3, 5, 5], [0.5, 0.6, 0.7, 9, 9, 9], [0.9, 0.9, 0, 0, 0], 0.95)
    np.testing.assert_allclose(advantages[:3], [4.4570075, 3.9965, 2.3], atol=1e-12)


@pytest.mark.parametrize(
    ("lambda_", "advantages"),
    [(0.95, [0.4374625, 0.56575, 0.385, 0.3]), (1.0, [0.5, 0.6, 0.4, 0.3]), (0.0, [-0.1, 0.2, 0.1, 0.3])],
)
def test_a_completion_with_its_reward_at_the_end(lambda_, advantages):
    found = gae([0, 0, 0, 1], [0.5, 0.4, 0.6, 0.7, 0.0], [1.0] * 4, lambda_)
    np.testing.assert_allclose(found, advantages, atol=1e-12)


def test_lambda_one_is_the_return_and_lambda_zero_the_error_of_one_step():
    keys = jax.random.split(jax.random.key(0), 3)
    rewards, values = (
        np.asarray(jax.random.normal(k, (4, n)), np.float64) for k, n in zip(keys, (9, 10), strict=False)
    )
    discounts = 0.97 * np.asarray(jax.random.bernoulli(keys[2], 0.8, (4, 9)), np.float64)
    monte_carlo = returns(rewards, discounts, values[:, -1])
    np.testing.assert_allclose(gae(rewards, values, discounts, 1.0), monte_carlo - values[:, :-1], atol=1e-12)
    errors = rewards + discounts * values[:, 1:] - values[:, :-1]
    np.testing.assert_allclose(gae(rewards, values, discounts, 0.0), errors, atol=1e-12)


GOLDEN = json.loads(Path(__file__).with_name("rlax.json").read_text())["cases"]


@pytest.mark.parametrize(
    "case", GOLDEN, ids=lambda case: f"T={len(case['rewards'])} lambda={case['lambda_']}"
)
def test_agrees_with_rlax(case):
    advantages = gae(case["rewards"], case["values"], case["discounts"], case["lambda_"])
    np.testing.assert_allclose(advantages, case["advantages"], rtol=1e-12, atol=1e-12)
    lambda_returns = advantages + np.array(case["values"][:-1])
    np.testing.assert_allclose(lambda_returns, case["lambda_returns"], rtol=1e-12, atol=1e-12)
    found = returns(case["rewards"], case["discounts"], case["values"][-1])
    np.testing.assert_allclose(found, case["returns"], rtol=1e-12, atol=1e-12)


def test_bfloat16_rewards_and_every_transformation():
    keys = jax.random.split(jax.random.key(1), 2)
    rewards, values = jax.random.normal(keys[0], (8, 5)), jax.random.normal(keys[1], (8, 6))
    discounts = jnp.full((8, 5), 0.9)

    def advantages(rewards, values, discounts):
        return generalized_advantage_estimation(rewards, values, discounts, lambda_=0.8)

    rough = advantages(*(x.astype(jnp.bfloat16) for x in (rewards, values, discounts)))
    assert rough.dtype == jnp.float32
    expected = advantages(rewards, values, discounts)
    np.testing.assert_allclose(rough, expected, atol=0.1)
    for mapped in (jax.jit(advantages), jax.vmap(advantages), jax.pmap(advantages)):
        np.testing.assert_allclose(mapped(rewards, values, discounts), expected, rtol=1e-5, atol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    sharded = jax.jit(jax.shard_map(advantages, mesh=mesh, in_specs=split, out_specs=split))
    np.testing.assert_allclose(sharded(rewards, values, discounts), expected, rtol=1e-5, atol=1e-6)
    swept = jax.vmap(lambda x: generalized_advantage_estimation(rewards, values, discounts, lambda_=x))(
        jnp.float32([0.0, 0.8])
    )
    np.testing.assert_allclose(swept[1], expected, rtol=1e-5, atol=1e-6)
