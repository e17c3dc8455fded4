"""Returns and advantages of trajectories."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import require
from prefjax.returns.recurrence import linear_recurrence
from prefjax.types import Scalar


def discounted_returns(
    rewards: Float[Array, "*batch T"],
    discounts: Float[Array, "*batch T"],
    bootstrap_value: Float[Array, "*batch"],
) -> Float[Array, "*batch T"]:
    """What is collected from each step on.

        Gₜ = rₜ + γₜ Gₜ₊₁,   G_T = V(s_T)

    Args:
      rewards: rₜ, after acting at t.
      discounts: γₜ; 0 where the episode ended with step t. An episode that was merely cut off at the end of
        the window keeps its discount, and its value is `bootstrap_value`.
      bootstrap_value: V(s_T), of the state after the last step; no effect where that step ended the episode.

    Returns: Gₜ in float32 or wider.
    Raises: InputError where the shapes disagree.
    Range: linear in the rewards; finite where they are.
    Relatives: `generalized_advantage_estimation` with λ = 1, plus V.
    Source: Sutton and Barto, "Reinforcement Learning", 2018, eq. 3.9.
    """
    return linear_recurrence(discounts, rewards, bootstrap_value)


def generalized_advantage_estimation(
    rewards: Float[Array, "*batch T"],
    values: Float[Array, "*batch T+1"],
    discounts: Float[Array, "*batch T"],
    *,
    lambda_: Scalar,
) -> Float[Array, "*batch T"]:
    """Generalised advantage estimation (GAE).

        Aₜ = δₜ + γₜ λ Aₜ₊₁,   δₜ = rₜ + γₜ V(sₜ₊₁) - V(sₜ),   A_T = 0

    Args:
      rewards: rₜ, after acting at t.
      values: V(s₀), …, V(s_T), one more than there are rewards.
      discounts: γₜ; 0 where the episode ended with step t, which cuts both the bootstrap and the trace. Cut
        off is not ended: an episode that goes on beyond the window keeps its discount, and V(s_T) stands for
        the rest of it.
        One that was cut off inside the window, and followed by another, has to be a window of its own: here
        `values[t + 1]` would be that of the next episode's first state.
      lambda_: λ in [0, 1].

    Returns: Aₜ in float32 or wider, neither whitened nor cut off from the gradient.
    Raises: InputError where the shapes disagree.
    Range: linear in rewards and values; finite where they are.
    Relatives: λ = 0 is the one-step error δ, λ = 1 `discounted_returns` less the value; A + V is the λ-return.
    Elsewhere: TRL's PPO has γ = 1 and λ = 0.95, and whitens A; its returns are A + V from before.
    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
      2016, eq. 16 (arXiv:1506.02438).
    """
    shape = jnp.shape(rewards)
    fits = len(shape) > 0 and jnp.shape(values) == (*shape[:-1], shape[-1] + 1)
    require(
        fits and jnp.shape(discounts) == shape,
        "generalized_advantage_estimation",
        f"rewards, values and discounts have shapes {shape}, {jnp.shape(values)}, {jnp.shape(discounts)}",
        "[…, T], […, T+1] and […, T]", "Append the value of the last state to `values`.",
    )  # fmt: skip
    values = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    errors = rewards + discounts * values[..., 1:] - values[..., :-1]
    return linear_recurrence(discounts * lambda_, errors, jnp.zeros_like(errors[..., 0]))
