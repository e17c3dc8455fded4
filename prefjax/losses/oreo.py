"""OREO: a policy and a value that satisfy the soft Bellman equation at every step of logged trajectories.

Where the next state is the state with the action appended, the regularised optimum satisfies, from each step on,

    V*(sₜ) = Rₜ - β Σᵢ₌ₜ lᵢ,   l = log π*(a|s) - log π₀(a|s),   Rₜ what is earned from t on

on every trajectory, so completions with an outcome are enough: no pairs, no fresh samples. T counts actions, and
what an action is decides the level: tokens; steps of reasoning, with sums of l over their tokens (`step_sums`);
or whole sequences, with T = 1. Average both losses by `Weighted.sequences`, step the value first and use its values
of before that step for the policy. The paper adds α `kl_exact` at the states of the trajectory to the policy's
(α = 0.01 for tokens, 0.1 for steps, 0.3 for sequences), which moves the optimum away from π*.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def oreo_policy_loss(
    logratios: Float[Array, "*batch T"],
    values: Float[Array, "*batch T"],
    returns: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    beta: Scalar = 0.03,
) -> Float[Array, "*batch T"]:
    """The policy's part of OREO: each action moves against the residual from its own state on.

        lossₜ = (sg(V(sₜ)) - Rₜ + β lₜ + sg(β Σᵢ₌ₜ₊₁ lᵢ))²,   sg: no gradient

    The gradient in lₜ is 2β eₜ, on purpose not that of the sum of values: without the inner sg it would be
    2β Σⱼ₌₀..ₜ eⱼ, which grows with t.

    Args:
      logratios: lₜ = log π(aₜ|sₜ) - log π₀(aₜ|sₜ) of each action, in nats.
      values: V(sₜ) of the value head, before its own step, in units of reward; no gradient flows through.
      returns: Rₜ, rewards from t on, not discounted; of an outcome R it is R everywhere. No gradient flows through.
      mask: 1 for actions, 0 for padding and for what the policy did not write (observations), which may hold
        anything finite.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a squared residual for each action.
    Raises: InputError where the shapes differ.
    Range: a square: the slope 2β|e| grows with the residual, and sums of log-ratios of ±1e4 are finite.
    Optimum: together with `oreo_value_loss` and trajectories that cover all actions: π₀ exp(r/β), the regularised
      optimum, with both losses 0.
    Relatives: the value is that of `oreo_value_loss`. With T = 1 and V = V* it is `a_star_po_loss`.
    Elsewhere: the paper's eq. 8 does not write the stop-gradient on the policy; its code has it.
    Source: Wang et al., "Offline Reinforcement Learning for LLM Multi-Step Reasoning", 2024, eq. 9
      (arXiv:2412.16145).
    """
    logratios, values, returns, mask = aligned(
        "oreo_policy_loss", logratios=logratios, values=values, returns=returns, mask=mask
    )
    values, returns = jax.lax.stop_gradient((values, returns))
    logratios = jnp.where(mask == 0, 0.0, logratios)
    tails = jax.lax.stop_gradient(_to_go(logratios) - logratios)
    return (values - returns + beta * (logratios + tails)) ** 2


def oreo_value_loss(
    values: Float[Array, "*batch T"],
    logratios: Float[Array, "*batch T"],
    returns: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    beta: Scalar = 0.03,
) -> Float[Array, "*batch T"]:
    """The value's part of OREO: regression on what was earned, less the price of the policy's log-ratios.

        lossₜ = (V(sₜ) - Rₜ + β sg(Σᵢ₌ₜ lᵢ))²,   sg: no gradient

    Args:
      values: V(sₜ) of the value head, in units of reward.
      logratios: lₜ = log π(aₜ|sₜ) - log π₀(aₜ|sₜ) of each action, in nats; no gradient flows through.
      returns: Rₜ, rewards from t on, not discounted. No gradient flows through.
      mask: 1 for actions, 0 for padding and for what the policy did not write, which may hold anything finite.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a squared residual for each action.
    Raises: InputError where the shapes differ.
    Range: a square: the slope 2|e| grows with the residual.
    Optimum: for a fixed policy, the mean of Rₜ - β Σ l over the trajectories that pass sₜ.
    Relatives: at π = π₀ it is twice `value_loss` of the return: V is then the reference's chance of success. The
      value is that of `oreo_policy_loss`.
    Source: Wang et al., "Offline Reinforcement Learning for LLM Multi-Step Reasoning", 2024, eq. 8
      (arXiv:2412.16145).
    """
    values, logratios, returns, mask = aligned(
        "oreo_value_loss", values=values, logratios=logratios, returns=returns, mask=mask
    )
    logratios, returns = jax.lax.stop_gradient((jnp.where(mask == 0, 0.0, logratios), returns))
    return (values - returns + beta * _to_go(logratios)) ** 2


def step_sums(
    values: Float[Array, "*batch T"],
    steps: Int[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    num_steps: int,
) -> Float[Array, "*batch {num_steps}"]:
    """Log-ratios of tokens, summed over the steps of reasoning that they belong to.

        l_k = Σₜ mₜ 1[stepₜ = k] lₜ

    Args:
      values: lₜ of each token, in nats.
      steps: which step a token belongs to, from 0 to num_steps - 1.
      mask: 1 for actions, 0 for what counts for no step and may hold anything.
      num_steps: room for steps, a static number.

    Returns: a sum for each step, 0 for steps without tokens.
    Raises: InputError where the shapes differ.
    Range: linear; the gradient of a step goes to each of its tokens.
    Source: Wang et al., "Offline Reinforcement Learning for LLM Multi-Step Reasoning", 2024, section 4.3
      (arXiv:2412.16145).
    """
    values, mask = aligned("step_sums", values=values, mask=mask)
    aligned("step_sums", values=values, steps=steps)
    belongs = jax.nn.one_hot(steps, num_steps, dtype=bool) & (mask != 0)[..., None]
    return jnp.sum(jnp.where(belongs, values[..., None], 0.0), axis=-2)


def _to_go(values):
    return jnp.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
