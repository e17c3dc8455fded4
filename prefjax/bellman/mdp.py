"""Finite Markov decision processes, solved exactly."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prefjax.checks import require
from prefjax.types import Scalar


class FiniteMDP(NamedTuple):
    """S states, A actions, and everything that happens between them.

    The end of an episode is a state that keeps to itself with reward 0.
    """

    transitions: Float[Array, "S A S"]  # P(s'|s, a)
    rewards: Float[Array, "S A"]  # the expectation of r, given s and a
    discount: Scalar  # γ in [0, 1)


def check_mdp(mdp: FiniteMDP, *, where: str = "mdp") -> None:
    """Refuses what is not a finite MDP; for concrete arrays, at the door.

    Raises: InputError for shapes that disagree, a row of transitions that is no distribution (to 1e-5), a
      reward that is not finite, or a discount outside [0, 1).
    """
    transitions, rewards = np.asarray(mdp.transitions, np.float64), np.asarray(mdp.rewards, np.float64)
    require(
        rewards.ndim == 2 and transitions.shape == (*rewards.shape, len(rewards)) and rewards.size > 0, where,
        f"transitions of shape {transitions.shape}, rewards of shape {rewards.shape}", "[S, A, S] and [S, A]",
        "Move the axes.",
    )  # fmt: skip
    # False for nan too.
    good = (transitions >= 0).all(axis=-1) & (np.abs(transitions.sum(axis=-1) - 1) <= 1e-5)
    state, action = map(int, np.unravel_index(int(np.argmin(good)), good.shape))
    require(
        bool(good.all()), where, f"transitions[{state}, {action}] is {transitions[state, action]}",
        "probabilities with sum 1", "Normalise over the last axis.",
    )  # fmt: skip
    finite = np.isfinite(rewards)
    state, action = map(int, np.unravel_index(int(np.argmin(finite)), finite.shape))
    require(
        bool(finite.all()), where, f"rewards[{state}, {action}] is {rewards[state, action]}",
        "finite rewards", "Forbid an action by its transitions.",
    )  # fmt: skip
    require(
        bool(0 <= mdp.discount < 1), where, f"discount {mdp.discount}", "0 <= discount < 1",
        "Let episodes end in an absorbing state of reward 0.",
    )  # fmt: skip


def action_values(mdp: FiniteMDP, values: Float[Array, " S"]) -> Float[Array, "S A"]:
    """What an action is worth, if V holds from the next state on.

        Q(s, a) = r(s, a) + γ Σ P(s'|s, a) V(s')

    Source: Sutton and Barto, "Reinforcement Learning", 2018, section 3.5.
    """
    return mdp.rewards + mdp.discount * jnp.einsum("saz,z->sa", mdp.transitions, values)


def policy_evaluation(mdp: FiniteMDP, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """The value of a policy, by one linear solve.

        V = r_π + γ P_π V,   that is (I - γ P_π) V = r_π

    Args:
      mdp: the process.
      policy: π(a|s), rows with sum 1.

    Returns: V(s); to rounding, which 1/(1 - γ) magnifies. Differentiable in all arguments.
    Source: Bellman's equation; Puterman, "Markov Decision Processes", 1994, theorem 6.1.1.
    """
    rewards = jnp.sum(policy * mdp.rewards, axis=-1)
    transitions = jnp.einsum("sa,saz->sz", policy, mdp.transitions)
    return jnp.linalg.solve(jnp.eye(len(rewards), dtype=rewards.dtype) - mdp.discount * transitions, rewards)


# A loop outside `jit` would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="num_steps")
def value_iteration(mdp: FiniteMDP, *, num_steps: int) -> Float[Array, " S"]:
    """The value of acting best, by Bellman's operator applied over and over.

        Vₖ₊₁(s) = max_a r(s, a) + γ Σ P(s'|s, a) Vₖ(s'),   V₀ = 0
        ‖V_K - V*‖∞ <= γ^K max|r| / (1 - γ)

    Args:
      mdp: the process.
      num_steps: K, static; also the horizon for which V_K is exact.

    Returns: V_K(s).
    Source: Puterman, "Markov Decision Processes", 1994, theorem 6.3.3.
    """

    def improve(values, _):
        return action_values(mdp, values).max(axis=-1), None

    values, _ = jax.lax.scan(improve, jnp.zeros_like(mdp.rewards[:, 0]), length=num_steps)
    return values
