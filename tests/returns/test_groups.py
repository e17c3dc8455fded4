"""Group baselines: written numbers, identities, groups of one, equal rewards, rewards that are nan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.returns import (
    batch_scaled_advantages,
    dr_grpo_advantages,
    grpo_advantages,
    opo_advantages,
    remax_advantages,
    reward_standard_deviation,
    rloo_advantages,
)

FOUR, EIGHT = jnp.float32([1, 0, 0.5, 0]), jnp.float32([1, 0, 0, 1, 1, 0, 0, 0])
SECOND = jnp.float32([1, 1, 0, 1])


def batch_scaled(rewards):
    return batch_scaled_advantages(rewards, reward_standard_deviation(rewards))


def opo(rewards):
    return opo_advantages(rewards, jnp.broadcast_to(jnp.arange(1, rewards.shape[-1] + 1), rewards.shape))


EVERY = [grpo_advantages, dr_grpo_advantages, batch_scaled, rloo_advantages, opo]


@pytest.mark.parametrize(
    ("advantages", "rewards", "written"),
    [
        (grpo_advantages, FOUR, [1.30530975, -0.78318585, 0.26106195, -0.78318585]),
        (dr_grpo_advantages, FOUR, [0.625, -0.375, 0.125, -0.375]),
        (rloo_advantages, FOUR, [0.83333333, -0.5, 0.16666667, -0.5]),
        (grpo_advantages, EIGHT, np.where(EIGHT == 1, 1.207381441, -0.724428864)),
        (
            lambda r: grpo_advantages(r, ddof=0, epsilon=0.0),
            EIGHT,
            np.where(EIGHT == 1, 1.290994449, -0.774596669),
        ),
        (rloo_advantages, EIGHT, np.where(EIGHT == 1, 0.714285714, -0.428571429)),
        (rloo_advantages, jnp.float32([0.2, 0.5, 0.9]), [-0.5, -0.05, 0.55]),
        (
            lambda r: grpo_advantages(r, ddof=0, epsilon=0.0),
            jnp.float32([0.2, 0.5, 0.9]),
            [-1.162476387, -0.116247639, 1.278724026],
        ),
    ],
)
def test_written_numbers(advantages, rewards, written):
    np.testing.assert_allclose(advantages(rewards), written, atol=3e-7)


def test_scaled_by_the_batch_and_other_baselines():
    rewards = jnp.stack([FOUR, SECOND])
    assert float(reward_standard_deviation(rewards)) == pytest.approx(0.4955156045, abs=1e-7)
    written = [
        [1.26105795, -0.75663477, 0.25221159, -0.75663477],
        [0.50442318, 0.50442318, -1.51326954, 0.50442318],
    ]
    np.testing.assert_allclose(batch_scaled(rewards), written, atol=3e-7)
    lengths = jnp.array([10, 30, 20, 40])
    np.testing.assert_allclose(opo_advantages(FOUR, lengths), FOUR - 0.2, atol=1e-7)
    np.testing.assert_allclose(opo_advantages(FOUR, jnp.full(4, 7)), dr_grpo_advantages(FOUR), atol=1e-7)
    np.testing.assert_array_equal(remax_advantages(FOUR, jnp.float32(0.25)), FOUR - 0.25)


def test_identities():
    rewards = jax.random.normal(jax.random.key(0), (5, 6))
    np.testing.assert_allclose(
        rloo_advantages(rewards), 6 / 5 * dr_grpo_advantages(rewards), rtol=1e-5, atol=1e-6
    )
    others = (rewards.sum(axis=-1, keepdims=True) - rewards) / 5
    np.testing.assert_allclose(rloo_advantages(rewards), rewards - others, rtol=1e-5, atol=1e-6)
    for advantages in EVERY:
        np.testing.assert_allclose(advantages(rewards + 3), advantages(rewards), rtol=1e-4, atol=1e-5)
    scaled = grpo_advantages(7 * rewards, epsilon=0.0)
    np.testing.assert_allclose(scaled, grpo_advantages(rewards, epsilon=0.0), rtol=1e-5)
    # Two different rewards: ±1/√2 whatever their gap, ±1 by the other convention.
    for gap in (1e-6, 1.0, 1e6):
        pair = gap * jnp.float32([1.0, 0.0])
        np.testing.assert_allclose(grpo_advantages(pair, epsilon=0.0), [0.5**0.5, -(0.5**0.5)], rtol=1e-5)
        np.testing.assert_allclose(grpo_advantages(pair, ddof=0, epsilon=0.0), [1, -1], rtol=1e-5)


@pytest.mark.parametrize("advantages", EVERY)
@pytest.mark.parametrize("reward", [0.0, 0.1, -1e6, 1 / 3])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_nothing_to_compare_is_exactly_zero(advantages, reward, size):
    # Also where the mean of equal numbers is not that number, as of three times .1.
    np.testing.assert_array_equal(advantages(jnp.full((2, size), reward)), 0.0)


def test_equal_rewards_are_zero_without_epsilon_too():
    np.testing.assert_array_equal(grpo_advantages(jnp.full(3, 0.1), epsilon=0.0), 0.0)
    np.testing.assert_array_equal(batch_scaled_advantages(jnp.full(3, 0.1), 0.0, epsilon=0.0), 0.0)


@pytest.mark.parametrize("advantages", [grpo_advantages, dr_grpo_advantages, rloo_advantages, batch_scaled])
def test_a_reward_that_is_nan_is_not_there(advantages):
    there = jnp.float32([0.2, 0.9, -1.0])
    found = advantages(jnp.float32([jnp.nan, 0.2, 0.9, jnp.nan, -1.0]))
    np.testing.assert_array_equal(found[jnp.array([0, 3])], 0.0)
    np.testing.assert_allclose(found[jnp.array([1, 2, 4])], advantages(there), rtol=1e-6)
    np.testing.assert_array_equal(advantages(jnp.float32([jnp.nan, jnp.nan, 0.4])), 0.0)
    np.testing.assert_array_equal(advantages(jnp.full(3, jnp.nan)), 0.0)


def test_nan_in_what_a_sample_is_compared_with():
    np.testing.assert_array_equal(remax_advantages(FOUR[None], jnp.float32([jnp.nan])), jnp.zeros((1, 4)))
    rewards, lengths = jnp.float32([1.0, jnp.nan, 0.0]), jnp.array([1, 100, 3])
    np.testing.assert_allclose(opo_advantages(rewards, lengths), [0.75, 0.0, -0.25], atol=1e-7)
    np.testing.assert_array_equal(opo_advantages(rewards, jnp.zeros(3)), 0.0)


@pytest.mark.parametrize("advantages", EVERY)
def test_every_transformation(advantages):
    rewards = jax.random.normal(jax.random.key(1), (8, 4)).at[3, 1].set(jnp.nan).at[5].set(0.5)
    expected = advantages(rewards)
    np.testing.assert_allclose(jax.jit(advantages)(rewards), expected, rtol=1e-5, atol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(rewards, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(jax.jit(advantages)(placed), expected, rtol=1e-5, atol=1e-6)
    assert advantages(rewards.astype(jnp.bfloat16)).dtype == jnp.float32
    gradient = jax.jit(jax.grad(lambda r: (advantages(r) ** 2).sum()))(rewards)
    assert np.all(np.isfinite(gradient))
    if advantages is not batch_scaled:  # which is of a batch
        np.testing.assert_allclose(jax.vmap(advantages)(rewards), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.pmap(advantages)(rewards), expected, rtol=1e-5, atol=1e-6)


def test_wrong_shapes_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"opo_advantages: rewards has shape \(4,\), lengths has shape \(1,\)"
    ):
        opo_advantages.__wrapped__(FOUR, jnp.ones(1))
    with pytest.raises(
        ValueError, match=r"remax_advantages: rewards has shape \(4,\), greedy_rewards \(4,\)"
    ):
        remax_advantages.__wrapped__(FOUR, FOUR)
