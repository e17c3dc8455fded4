"""Other baselines than the group's mean: lengths, the greedy answer, the runner-up, the reference's own value.

The last axis is the group, G samples of one prompt. A reward of nan takes no part, and its own advantage is 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import require
from prefjax.returns.comparing import centred, over, root, same_shape, variance, wide
from prefjax.types import Scalar


def opo_advantages(
    rewards: Float[Array, "*batch G"], lengths: Shaped[Array, "*batch G"]
) -> Float[Array, "*batch G"]:
    """On-policy with the optimal baseline: the mean of the group, weighed by length.

        Aᵢ = Rᵢ - Σⱼ nⱼ Rⱼ / Σⱼ nⱼ

    The baseline of least variance if the squared norm of a sample's gradient grows with its length.

    Args:
      rewards: Rᵢ.
      lengths: nᵢ, tokens of each sample.

    Returns: advantages in units of reward.
    Raises: InputError where the shapes differ.
    Range: within the gap of the largest and the smallest reward; 0 where all lengths are.
    Relatives: `dr_grpo_advantages` where all lengths are the same.
    Source: Hao et al., "On-Policy RL with Optimal Reward Baseline", 2025 (arXiv:2505.23585).
    """
    same_shape("opo_advantages", rewards=rewards, lengths=lengths)
    differences, valid = centred(rewards)
    weights = jnp.where(valid, lengths, 0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shift = jnp.sum(weights * differences, axis=-1, keepdims=True) / jnp.maximum(total, 1)
    return jnp.where(valid & (total > 0), differences - shift, 0.0)


def remax_advantages(
    rewards: Float[Array, "*batch G"], greedy_rewards: Float[Array, "*batch"]
) -> Float[Array, "*batch G"]:
    """ReMax: each sample against the answer that greedy decoding gives, the only one that needs no group.

        Aᵢ = Rᵢ - R(greedy answer)

    Args:
      rewards: Rᵢ of samples.
      greedy_rewards: of the greedy completion of the same prompt. Where it is nan, advantages are 0.

    Returns: advantages in units of reward.
    Raises: InputError where the shapes disagree.
    Range: within the range of the rewards; their mean is not 0.
    Relatives: unbiased like `rloo_advantages`, since the baseline is independent of the sample.
    Source: Li et al., "ReMax", 2023 (arXiv:2310.10505).
    """
    require(
        jnp.shape(rewards)[:-1] == jnp.shape(greedy_rewards), "remax_advantages",
        f"rewards has shape {jnp.shape(rewards)}, greedy_rewards {jnp.shape(greedy_rewards)}",
        "one greedy answer for each group: […, G] and […]", "Index or reshape first.",
    )  # fmt: skip
    difference = wide(rewards) - wide(greedy_rewards)[..., None]
    return jnp.where(jnp.isnan(difference), 0.0, difference)


def gpg_advantages(rewards: Float[Array, "*batch G"], scale: Scalar) -> Float[Array, "*batch G"]:
    """Group policy gradient: centred, and scaled up for the samples of the step that teach nothing.

        Aᵢ = α (Rᵢ - R̄)

    Args:
      rewards: Rᵢ.
      scale: α of the whole optimiser step: `gpg_scale`.

    Returns: advantages in units of reward, for `losses.reinforce_loss`.
    Raises: nothing.
    Range: those of `dr_grpo_advantages` times α.
    Relatives: `dr_grpo_advantages` where α = 1.
    Source: Chu et al., "GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning", 2025
      (arXiv:2504.02546).
    """
    return scale * centred(rewards)[0]


def gpg_scale(rewards: Float[Array, "..."]) -> Float[Array, ""]:
    """How many samples of a step there are for each that has earned something.

        α = n / max(1, #{i : Rᵢ ≠ 0})

    Args:
      rewards: of any shape: those of a whole optimiser step. nan is left out.

    Returns: α >= 1.
    Raises: nothing.
    Range: from 1 to n.
    Elsewhere: this count of rewards is verl's. For the count of samples in groups whose rewards differ, divide by the
      mean of `dynamic_sampling_mask`.
    Source: Chu et al., "GPG", 2025 (arXiv:2504.02546); the count: verl's `compute_gpg_outcome_advantage`.
    """
    rewards = wide(rewards)
    present = ~jnp.isnan(rewards)
    earned = jnp.sum(present & (rewards != 0))
    return (jnp.maximum(jnp.sum(present), 1) / jnp.maximum(earned, 1)).astype(rewards.dtype)


def max_at_k_advantages(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch G"]:
    """Leave-one-out of the group's maximum: what the group would lose without a sample.

        Aᵢ = maxⱼ Rⱼ - maxⱼ≠ᵢ Rⱼ

    Summed over the group, the policy gradient is that of E[max of G rewards]: pass@G for right and wrong.

    Args:
      rewards: Rᵢ. nan is left out.

    Returns: advantages in units of reward; 0 for all but the best, and for all where two are best.
    Raises: nothing.
    Range: from 0 to the gap of the largest and the smallest reward.
    Relatives: `pass_at_k_advantages` without its scale. With G = 2 it is the positive part of `rloo_advantages`.
    Source: Tang et al., "Optimizing Language Models for Inference Time Objectives using Reinforcement Learning",
      2025 (arXiv:2503.19595).
    """
    differences, valid = centred(rewards)
    scored = jnp.where(valid, differences, -jnp.inf)
    best = jnp.max(scored, axis=-1, keepdims=True, initial=-jnp.inf)
    is_best = jax.nn.one_hot(jnp.argmax(scored, axis=-1), scored.shape[-1], dtype=bool)
    second = jnp.max(jnp.where(is_best, -jnp.inf, scored), axis=-1, keepdims=True, initial=-jnp.inf)
    compared = jnp.sum(valid, axis=-1, keepdims=True) > 1
    gap = jnp.where(compared, best, 0.0) - jnp.where(compared, second, 0.0)
    return jnp.where(is_best, gap, 0.0)


def pass_at_k_advantages(
    rewards: Float[Array, "*batch G"], *, ddof: Scalar = 1, epsilon: Scalar = 1e-6
) -> Float[Array, "*batch G"]:
    """The best of a group against the runner-up, on the scale of the group.

        Aᵢ = (R₍₁₎ - R₍₂₎) / (s + ε) for the best sample, 0 for all others

    Args:
      rewards: Rᵢ. nan is left out.
      ddof: 1 or 0, of s.
      epsilon: ε, in units of reward.

    Returns: advantages without unit; 0 everywhere where two are best.
    Raises: nothing.
    Range: from 0 to √G for ddof = 1.
    Relatives: `max_at_k_advantages` over s + ε. At most one sample of a group learns, so groups of a good policy teach
      little.
    Elsewhere: verl's "grpo_passk", whose scale can be turned off.
    Source: Tang et al., "Optimizing Language Models for Inference Time Objectives using Reinforcement Learning",
      2025 (arXiv:2503.19595); the scale is that of verl.
    """
    differences, valid = centred(rewards)
    count = jnp.sum(valid, axis=-1, keepdims=True)
    scale = root(variance(differences, count, ddof)) + epsilon
    return over(max_at_k_advantages(rewards), scale)


def soft_values(rewards: Float[Array, "*batch G"], *, beta: Scalar = 0.5) -> Float[Array, "*batch"]:
    """What a prompt is worth to the regularised optimum, from samples of the reference.

        V = β log 1/G Σᵢ exp(Rᵢ/β),   yᵢ ~ π₀

    Args:
      rewards: Rᵢ of samples of π₀. nan is left out.
      beta: β > 0, in reward per nat away from π₀.

    Returns: V in units of reward, for `losses.a_star_po_loss`; nan for a group without any reward.
    Raises: nothing.
    Range: from the mean of the rewards (β → ∞) to their maximum (β → 0), and finite between.
    Relatives: with all outcomes, weighed by π₀, the value of π₀ exp(R/β): E[R] - β KL.
    Elsewhere: TRL's A2PO takes 8 samples and β = 0.5.
    Source: Brantley et al., "Accelerating RL for LLM Reasoning with Optimal Advantage Regression" (A*-PO), 2025
      (arXiv:2505.20686).
    """
    rewards = wide(rewards)
    valid = ~jnp.isnan(rewards)
    count = jnp.sum(valid, axis=-1)
    most = jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    most = jax.lax.stop_gradient(jnp.where(jnp.any(valid, axis=-1, keepdims=True), most, 0.0))
    # e^x - 1 and log(1 + x), which keep their digits where β is large.
    below = jnp.where(valid, jnp.expm1((jnp.where(valid, rewards, most) - most) / beta), 0.0)
    value = most[..., 0] + beta * jnp.log1p(jnp.sum(below, axis=-1) / jnp.maximum(count, 1))
    return jnp.where(count > 0, value, jnp.nan)
