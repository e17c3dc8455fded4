"""Finite MDPs against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.bellman import FiniteMDP, action_values, check_mdp, policy_evaluation, value_iteration
from prefjax.checks import InputError


def two_states(discount=0.9):
    """Action 0 stays, action 1 moves to the other state; staying pays 0 in state 0 and 1 in state 1."""
    stay, move = np.eye(2), np.eye(2)[::-1]
    return FiniteMDP(jnp.array(np.stack([stay, move], axis=1)), jnp.array([[0.0, 0.0], [1.0, 0.0]]), discount)


def test_the_best_is_to_move_once_and_stay():
    with jax.enable_x64(True):
        mdp = two_states()
        check_mdp(mdp)
        # V*(1) = 1/(1 - .9) = 10, V*(0) = .9 · 10.
        values = value_iteration(mdp, num_steps=400)
        np.testing.assert_allclose(values, [9.0, 10.0], atol=1e-12)
        np.testing.assert_allclose(action_values(mdp, values), [[8.1, 9.0], [10.0, 8.1]], atol=1e-12)
        best = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        np.testing.assert_allclose(policy_evaluation(mdp, best), [9.0, 10.0], atol=1e-12)


def test_a_finite_horizon_is_exact_and_the_rest_within_its_bound():
    with jax.enable_x64(True):
        mdp = two_states()
        # With three steps to go: state 1 collects 1 + .9 + .81, state 0 moves and then collects .9 + .81.
        np.testing.assert_allclose(value_iteration(mdp, num_steps=3), [1.71, 2.71], atol=1e-12)
        for steps in (0, 5, 50):
            error = np.abs(value_iteration(mdp, num_steps=steps) - np.array([9.0, 10.0])).max()
            assert error <= 0.9**steps / 0.1 + 1e-12


def test_a_coin_toss_at_every_state():
    # V = r_π + γ P_π V with P_π = 1/2 everywhere, r_π = (0, 1/2): V = r_π + .9 · mean(V), mean(V) = .25/.1.
    with jax.enable_x64(True):
        values = policy_evaluation(two_states(), jnp.full((2, 2), 0.5))
    np.testing.assert_allclose(values, [2.25, 2.75], atol=1e-12)


def test_a_random_walk_to_two_ends():
    # Five states in a row between two ends, reward 1 on reaching the right one: values 1/6, …, 5/6 as γ → 1.
    transitions, rewards = np.zeros((7, 1, 7)), np.zeros((7, 1))
    for state in range(1, 6):
        transitions[state, 0, [state - 1, state + 1]] = 0.5
    transitions[0, 0, 0] = transitions[6, 0, 6] = 1
    rewards[5, 0] = 0.5
    with jax.enable_x64(True):
        mdp = FiniteMDP(jnp.array(transitions), jnp.array(rewards), 1 - 1e-9)
        check_mdp(mdp)
        values = policy_evaluation(mdp, jnp.ones((7, 1)))
    np.testing.assert_allclose(values, [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 0], atol=1e-7)


def test_values_are_differentiable_and_map_over_discounts():
    with jax.enable_x64(True):
        mdp = two_states()
        # V*(1) = r/(1 - γ), so its slope in γ is r/(1 - γ)², and in r 1/(1 - γ).
        best = jnp.array([[0.0, 1.0], [1.0, 0.0]])

        def value(discount, rewards):
            return policy_evaluation(FiniteMDP(mdp.transitions, rewards, discount), best)[1]

        by_discount, by_rewards = jax.grad(value, argnums=(0, 1))(0.9, mdp.rewards)
        assert float(by_discount) == pytest.approx(100.0)
        np.testing.assert_allclose(by_rewards, [[0, 0], [10, 0]], atol=1e-10)

        def planned(discount):
            return value_iteration(FiniteMDP(mdp.transitions, mdp.rewards, discount), num_steps=300)

        swept = jax.jit(jax.vmap(planned))(jnp.array([0.5, 0.9]))
    np.testing.assert_allclose(swept, [[1.0, 2.0], [9.0, 10.0]], atol=1e-10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m._replace(transitions=m.transitions.at[1, 0, 0].set(0.5)),
            r"transitions\[1, 0\] is .* sum 1",
        ),
        (lambda m: m._replace(transitions=m.transitions.at[0, 1, 1].set(np.nan)), r"transitions\[0, 1\]"),
        (lambda m: m._replace(rewards=m.rewards.at[1, 1].set(np.inf)), r"rewards\[1, 1\] is inf"),
        (lambda m: m._replace(rewards=m.rewards[:1]), r"\[S, A, S\] and \[S, A\]"),
        (lambda m: m._replace(discount=1.0), "discount 1.0; 0 <= discount < 1"),
    ],
)
def test_what_is_no_mdp_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        check_mdp(change(two_states()))
