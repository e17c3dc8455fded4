"""Rewards of tokens, made from the score of a completion and the price of leaving the reference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def kl_shaped_rewards(
    scores: Float[Array, "*batch"],
    logps: Float[Array, "*batch T"],
    reference_logps: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch T"]:
    """The score at the last token, and at every token the price of its log-ratio.

        rₜ = -β (log π(yₜ|·) - log π₀(yₜ|·)) + [t is the last token] R

    The sum over tokens is R - β log π(y|x)/π₀(y|x), whose mean is E[R] - β KL(π‖π₀) of whole sequences, and a policy
    gradient on it follows exactly that. (The estimate k3 here, a choice of TRL's PPO, would not.)

    Args:
      scores: R of each completion; nan, of a score that could not be computed, stays nan at its token.
      logps: log π of each token under the policy that *sampled* it, in nats.
      reference_logps: log π₀ of the same tokens.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything.
      beta: β >= 0, the price of a nat; TRL's `kl_coef` of PPO and `beta` of RLOO, 0.05 in both.

    Returns: rewards, without gradient, 0 where the mask is. TRL's PPO puts R one slot later, behind the end of
      sequence, where there is room; RLOO takes the sum over tokens, then its baseline.
    Raises: InputError where the shapes disagree.
    Source: Ouyang et al., "Training language models to follow instructions with human feedback", 2022, eq. 2
      (arXiv:2203.02155); token by token as in Stiennon et al., 2020 (arXiv:2009.01325).
    """
    logps, reference_logps, mask = aligned(
        "kl_shaped_rewards", logps=logps, reference_logps=reference_logps, mask=mask
    )
    if jnp.shape(scores) != logps.shape[:-1]:
        refuse(
            "kl_shaped_rewards", f"scores has shape {jnp.shape(scores)}, logps {logps.shape}",
            "one score for each sequence: […] and […, T]", "Index or reshape first.",
        )  # fmt: skip
    (scores,) = aligned("kl_shaped_rewards", scores=scores)
    present = mask != 0
    remaining = jnp.cumsum(present[..., ::-1], axis=-1)[..., ::-1]
    last = present & (remaining == 1)
    price = jnp.where(present, -beta * (logps - reference_logps), 0.0)
    return jax.lax.stop_gradient(price + jnp.where(last, scores[..., None], 0.0))
