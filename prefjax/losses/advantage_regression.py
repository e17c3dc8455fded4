"""A policy regressed on its own optimal advantage: the log-ratio that the regularised optimum has, as a target."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def a_star_po_loss(
    logratio: Float[Array, "*batch"],
    rewards: Float[Array, "*batch"],
    optimal_values: Float[Array, "*batch"],
    *,
    beta: Scalar = 1e-3,
) -> Float[Array, "*batch"]:
    """A*-PO: the log-ratio of a completion regressed on its optimal advantage.

        loss = (β ρ - (R - V*(x)))²,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      rewards: R of each completion; no gradient flows through.
      optimal_values: V* of its prompt, from samples of π₀: `returns.soft_values`. No gradient flows through.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a squared residual for each completion.
    Raises: InputError where the shapes differ.
    Range: a square: the slope 2β|e| grows with the residual.
    Optimum: π₀ exp(r/β), the regularised optimum, if V* is of the same β.
    Relatives: `oreo_policy_loss` of whole sequences (T = 1) with V = V*.
    Elsewhere: TRL's A2POTrainer and the paper estimate V* at another, larger β₁ = 0.5, so that no policy has loss 0.
    Source: Brantley et al., "Accelerating RL for LLM Reasoning with Optimal Advantage Regression", 2025
      (arXiv:2505.20686).
    """
    logratio, rewards, optimal_values = aligned(
        "a_star_po_loss", logratio=logratio, rewards=rewards, optimal_values=optimal_values
    )
    return (beta * logratio - jax.lax.stop_gradient(rewards - optimal_values)) ** 2
