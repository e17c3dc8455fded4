"""Several rewards for one sample: whether they are added first, or compared first, decides which of them is heard.

Added first, as `grpo_advantages(rewards @ weights)`, groups whose sums agree teach nothing, and a reward of small
spread is drowned. Compared first (GDPO), each reward has the same say, whatever its spread.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import require
from prefjax.returns.comparing import centred, over, root, variance
from prefjax.types import Scalar


def gdpo_scores(
    rewards: Float[Array, "*batch G K"],
    weights: Float[Array, " K"],
    *,
    ddof: Scalar = 1,
    epsilon: Scalar = 1e-4,
) -> Float[Array, "*batch G"]:
    """Each reward relative to its own group, and then the sum.

        zᵢ = Σₖ wₖ (Rᵢₖ - R̄ₖ) / (sₖ + ε),   R̄ₖ and sₖ of the group

    Args:
      rewards: Rᵢₖ, K rewards of each of the G samples of a prompt. nan takes no part and adds nothing.
      weights: wₖ.
      ddof: 1 or 0, of sₖ.
      epsilon: ε, in units of reward.

    Returns: scores without unit, of mean 0 over the group; nan where all K rewards of a sample are.
    Raises: InputError where there is not one weight for each reward.
    Range: at most Σₖ|wₖ| (G - 1)/√G.
    Relatives: with K = 1 and w = 1 it is `grpo_advantages`.
    Source: Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization", 2026 (arXiv:2601.05242).
    """
    shape = jnp.shape(rewards)
    require(
        len(shape) >= 2 and jnp.shape(weights) == shape[-1:], "gdpo_scores",
        f"rewards has shape {shape}, weights {jnp.shape(weights)}", "[…, G, K] and [K]", "Give one weight a reward.",
    )  # fmt: skip
    differences, valid = centred(jnp.swapaxes(rewards, -1, -2))
    count = jnp.sum(valid, axis=-1, keepdims=True)
    compared = over(differences, root(variance(differences, count, ddof)) + epsilon)
    summed = jnp.einsum("...kg,k->...g", compared, weights)
    return jnp.where(jnp.any(valid, axis=-2), summed, jnp.nan)


def gdpo_advantages(
    scores: Float[Array, "*batch G"], standard_deviation: Scalar, *, epsilon: Scalar = 1e-4
) -> Float[Array, "*batch G"]:
    """The scores of GDPO on the scale of one, so that the number of rewards does not set the step.

        Aᵢ = zᵢ / (s + ε)

    Args:
      scores: zᵢ: `gdpo_scores`.
      standard_deviation: s, of all scores of the optimiser step: `reward_standard_deviation` of them.
      epsilon: ε.

    Returns: advantages without unit; 0 where the score is nan.
    Raises: nothing.
    Range: finite where scores are.
    Relatives: a group's scores have mean 0, so that none is subtracted.
    Elsewhere: TRL's `multi_objective_aggregation="normalize_then_sum"`, whatever `scale_rewards` is; TRL subtracts the
      mean over the batch, which is 0 up to rounding.
    Source: Liu et al., "GDPO: Group reward-Decoupled Normalization Policy Optimization", 2026 (arXiv:2601.05242).
    """
    absent = jnp.isnan(scores)
    return jnp.where(absent, 0.0, over(jnp.where(absent, 0.0, scores), standard_deviation + epsilon))
