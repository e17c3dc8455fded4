"""How strongly an ensemble of reward models prefers what a label calls chosen, and what to do with weak labels.

The last axis of rewards is the ensemble: M models trained on the same pairs in different order.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from prefjax.rewards.arrays import aligned, rounded_down
from prefjax.types import Scalar


def preference_strength(
    chosen_rewards: Float[Array, "*batch M"], rejected_rewards: Float[Array, "*batch M"]
) -> Float[Array, "*batch"]:
    """The mean difference of rewards over an ensemble: how strong a preference is, and in which direction.

        μ = 1/M Σₘ (rₘ(x, y⁺) - rₘ(x, y⁻))

    Args:
      chosen_rewards: rₘ(x, y⁺) of M reward models.
      rejected_rewards: rₘ(x, y⁻).

    Returns: μ in units of reward for each pair; negative where the ensemble would have it the other way round.
    Raises: InputError where the shapes differ.
    Range: linear.
    Relatives: `strength_deviation` says how far the members agree; the mean of `ranking_accuracy` over members is
      the share of votes. As the `margin` of `losses.bradley_terry_loss` it is the adaptive margin of the paper,
      -log σ(d - μ), which relaxes pairs of μ < 0: flip those first (then the margin is |μ|).
    Source: Wang et al., "Secrets of RLHF in Large Language Models Part II: Reward Modeling", 2024
      (arXiv:2401.06080).
    """
    chosen_rewards, rejected_rewards = aligned(
        "preference_strength", chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    return jnp.mean(chosen_rewards - rejected_rewards, axis=-1)


def strength_deviation(
    chosen_rewards: Float[Array, "*batch M"], rejected_rewards: Float[Array, "*batch M"]
) -> Float[Array, "*batch"]:
    """The standard deviation of the difference of rewards over an ensemble.

        s = (1/M Σₘ (dₘ - μ)²)^1/2,   dₘ = rₘ(x, y⁺) - rₘ(x, y⁻)

    Args:
      chosen_rewards: rₘ(x, y⁺) of M reward models.
      rejected_rewards: rₘ(x, y⁻).

    Returns: s ≥ 0 in units of reward for each pair.
    Raises: InputError where the shapes differ.
    Range: slope at most M^-1/2 in each reward; 0, without gradient, where all members say the same.
    Relatives: the square root of the variance that `uncertainty_weighted_reward` prices.
    Source: Wang et al., "Secrets of RLHF in Large Language Models Part II: Reward Modeling", 2024
      (arXiv:2401.06080); the divisor M is our reading.
    """
    chosen_rewards, rejected_rewards = aligned(
        "strength_deviation", chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    differences = chosen_rewards - rejected_rewards
    variance = jnp.mean((differences - jnp.mean(differences, axis=-1, keepdims=True)) ** 2, axis=-1)
    some = variance > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)


def weakest_pairs(strengths: Float[Array, "*batch N"], *, fraction: Scalar = 0.2) -> Bool[Array, "*batch N"]:
    """Which pairs of a data set have the least strength: the ones to flip, to soften or to leave out.

        rank of μᵢ, from 0 < fraction · N

    Args:
      strengths: μ of all N pairs, from `preference_strength`; nan ranks last. Of equal ones the first is weaker.
      fraction: which part of the pairs; the paper flips a fifth.

    Returns: true for the weakest ones. `jnp.where(weak, rejected, chosen)`, and the other way round, flips;
      `label_smoothing=weak` in `losses.bradley_terry_loss` does the same to a loss without margin.
    Raises: nothing.
    Source: Wang et al., "Secrets of RLHF in Large Language Models Part II: Reward Modeling", 2024
      (arXiv:2401.06080).
    """
    (strengths,) = aligned("weakest_pairs", strengths=strengths)
    ranks = jnp.argsort(jnp.argsort(strengths, axis=-1, stable=True), axis=-1)
    # From 0 < f N on is the same as from 0 to N - ⌊(1 - f) N⌋ - 1, whatever rounding does to f N.
    return ranks < strengths.shape[-1] - rounded_down((1 - fraction) * strengths.shape[-1])


def soft_label(strength: Float[Array, "*batch"], *, temperature: Scalar = 1.0) -> Float[Array, "*batch"]:
    """How probable an ensemble finds a label.

        q = σ(μ/τ)

    Args:
      strength: μ of each pair, from `preference_strength`.
      temperature: τ > 0, in units of reward.

    Returns: q in [0, 1]; `label_smoothing=1 - q` in `losses.bradley_terry_loss` is the paper's soft label.
    Raises: nothing.
    Range: slope at most 1/(4τ).
    Relatives: `bradley_terry_probability` of the mean rewards at τ = 1; τ → 0 is the sign of the strength, a flip.
    Elsewhere: the paper's p of label smoothing is the weight of the reversed label, as ε here; some write it for that
      of the chosen one.
    Source: Wang et al., "Secrets of RLHF in Large Language Models Part II: Reward Modeling", 2024
      (arXiv:2401.06080); the sigmoid with its τ is our reading.
    """
    (strength,) = aligned("soft_label", strength=strength)
    return jax.nn.sigmoid(strength / temperature)
