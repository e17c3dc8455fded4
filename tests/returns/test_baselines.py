"""Other baselines: written numbers, identities, groups of one, equal rewards, rewards that are nan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prefjax.returns import (
    dr_grpo_advantages,
    dynamic_sampling_mask,
    gpg_advantages,
    gpg_scale,
    grpo_advantages,
    max_at_k_advantages,
    opo_advantages,
    pass_at_k_advantages,
    remax_advantages,
    rloo_advantages,
    soft_values,
)

FOUR, EIGHT = jnp.float32([1, 0, 0.5, 0]), jnp.float32([1, 0, 0, 1, 0, 0, 0, 0])
GROUPS = hnp.arrays(np.float32, (3, 4), elements=st.floats(-4, 4, width=16))
JITTED = {
    f: jax.jit(f)
    for f in (rloo_advantages, dr_grpo_advantages, max_at_k_advantages, pass_at_k_advantages, grpo_advantages,
              dynamic_sampling_mask, soft_values)
}  # fmt: skip


def test_the_best_against_the_runner_up():
    np.testing.assert_allclose(pass_at_k_advantages(FOUR), [1.0444637539, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(max_at_k_advantages(FOUR), [0.5, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(pass_at_k_advantages(jnp.float32([1, 0, 1])), 0.0)  # two are best
    biased = pass_at_k_advantages(FOUR, ddof=0, epsilon=0.0)
    np.testing.assert_allclose(biased[0], 0.5 / np.std([1, 0, 0.5, 0]), rtol=1e-6)


@given(GROUPS)
@settings(max_examples=30, deadline=None)
def test_the_maximum_left_out_by_its_definition(rewards):
    found = np.asarray(JITTED[max_at_k_advantages](rewards))
    for i, row in enumerate(rewards):
        wanted = [row.max() - np.delete(row, j).max() for j in range(4)]
        np.testing.assert_allclose(found[i], wanted, atol=2e-6)
    pair = jnp.asarray(rewards[:, :2])
    np.testing.assert_allclose(
        JITTED[max_at_k_advantages](pair), np.maximum(JITTED[rloo_advantages](pair), 0), atol=2e-6
    )


@given(GROUPS)
@settings(max_examples=30, deadline=None)
def test_leave_one_out_is_the_centred_reward_times_g_over_g_less_1(rewards):
    centred = np.asarray(JITTED[dr_grpo_advantages](rewards))
    np.testing.assert_allclose(JITTED[rloo_advantages](rewards), 4 / 3 * centred, rtol=1e-5, atol=1e-6)
    taught = np.asarray(JITTED[dynamic_sampling_mask](rewards))
    np.testing.assert_array_equal(taught, np.any(centred != 0, axis=-1))
    assert np.abs(JITTED[grpo_advantages](rewards)).max() <= 3 / 2 + 1e-5
    assert np.all(np.asarray(JITTED[pass_at_k_advantages](rewards)) <= 2 + 1e-5)


def test_group_policy_gradient_and_its_scale():
    rewards = jnp.stack([FOUR, jnp.zeros(4)])
    assert float(gpg_scale(rewards)) == 4.0
    np.testing.assert_allclose(gpg_advantages(rewards, gpg_scale(rewards)), 4 * dr_grpo_advantages(rewards))
    assert float(gpg_scale(jnp.zeros((2, 3)))) == 6.0  # nothing earned: finite
    assert float(gpg_scale(jnp.float32([1, jnp.nan, 0, 2]))) == 1.5
    # The other reading of the paper: samples of groups that teach something.
    assert float(1 / dynamic_sampling_mask(rewards).mean()) == 2.0


def test_dynamic_sampling_keeps_groups_that_differ():
    rewards = jnp.float32([[1, 0, 1], [1, 1, 1], [0, 0, 0], [1, jnp.nan, 1], [jnp.nan, 0, 1], [jnp.nan] * 3])
    np.testing.assert_array_equal(dynamic_sampling_mask(rewards), [1, 0, 0, 0, 1, 0])


def test_the_value_of_a_prompt():
    assert float(soft_values(EIGHT, beta=0.5)) == pytest.approx(0.4772292964, abs=1e-6)
    assert float(soft_values(EIGHT, beta=1e6)) == pytest.approx(0.25, abs=1e-2)
    assert float(soft_values(EIGHT, beta=1e-3)) == pytest.approx(1 - 1e-3 * np.log(4), abs=1e-6)
    missing = jnp.concatenate([EIGHT, jnp.float32([jnp.nan])])
    assert float(soft_values(missing)) == pytest.approx(float(soft_values(EIGHT)), abs=1e-6)
    assert np.isnan(soft_values(jnp.float32([jnp.nan])))
    assert np.all(np.isfinite(jax.grad(lambda r: soft_values(r, beta=1e-3))(jnp.float32([1e4, -1e4, 0]))))


def test_the_value_is_what_the_regularised_optimum_earns():
    """Over all outcomes, as likely under the reference: E[R] - β KL of π ∝ exp(R/β)."""
    optimum = jax.nn.softmax(FOUR / 0.3)
    earned = optimum @ (FOUR - 0.3 * jnp.log(4 * optimum))
    assert float(soft_values(FOUR, beta=0.3)) == pytest.approx(float(earned), abs=1e-6)


@given(GROUPS)
@settings(max_examples=20, deadline=None)
def test_the_value_lies_between_mean_and_maximum(rewards):
    values = np.asarray(JITTED[soft_values](rewards))
    assert np.all(values >= rewards.mean(axis=-1) - 1e-5)
    assert np.all(values <= rewards.max(axis=-1) + 1e-5)


SAFE = [
    max_at_k_advantages,
    pass_at_k_advantages,
    lambda rewards: pass_at_k_advantages(rewards, epsilon=0.0),
    lambda rewards: gpg_advantages(rewards, gpg_scale(rewards)),
]


@pytest.mark.parametrize("advantages", SAFE)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_nothing_to_compare_is_exactly_zero(advantages, size):
    np.testing.assert_array_equal(advantages(jnp.full((2, size), 0.1)), 0.0)
    np.testing.assert_array_equal(advantages(jnp.full((2, size), jnp.nan)), 0.0)


@pytest.mark.parametrize("advantages", SAFE)
def test_a_reward_that_is_nan_is_not_there(advantages):
    found = advantages(jnp.float32([jnp.nan, 0.2, 0.9, jnp.nan, -1.0]))
    np.testing.assert_array_equal(found[jnp.array([0, 3])], 0.0)
    np.testing.assert_allclose(
        found[jnp.array([1, 2, 4])], advantages(jnp.float32([0.2, 0.9, -1.0])), rtol=1e-5, atol=1e-6
    )


def test_every_transformation():
    rewards = jax.random.normal(jax.random.key(1), (8, 4)).at[3, 1].set(jnp.nan).at[5].set(0.5)
    for advantages in SAFE[:2]:
        expected = advantages(rewards)
        np.testing.assert_allclose(jax.vmap(advantages)(rewards), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.pmap(advantages)(rewards), expected, rtol=1e-6)
        assert advantages(rewards.astype(jnp.bfloat16)).dtype == jnp.float32
        gradient = jax.jit(jax.grad(lambda r, f=advantages: (f(r) ** 2).sum()))(rewards)
        assert np.all(np.isfinite(gradient))


def test_lengths_and_greedy_answers():
    np.testing.assert_allclose(opo_advantages(FOUR, jnp.array([10, 30, 20, 40])), FOUR - 0.2, atol=1e-7)
    np.testing.assert_array_equal(remax_advantages(FOUR, jnp.float32(0.25)), FOUR - 0.25)
