"""Group baselines: a sample is as good as its reward compared with those of other samples of the same prompt.

The last axis is the group, G samples of one prompt. A reward that could not be computed is nan: it takes no part
in what the others are compared with, and its own advantage is 0. Where nothing can be compared (a group of one,
one reward that is no nan, all rewards equal) advantages are 0. Every token of a sample gets the sample's.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.returns.comparing import centred, over, root, variance, wide
from prefjax.types import Scalar


def grpo_advantages(
    rewards: Float[Array, "*batch G"], *, ddof: Scalar = 1, epsilon: Scalar = 1e-4
) -> Float[Array, "*batch G"]:
    """Group relative advantages: how many standard deviations above the group's mean.

        Aᵢ = (Rᵢ - R̄) / (s + ε),   s² = Σⱼ (Rⱼ - R̄)² / (G - ddof)

    Prompts on which samples hardly differ count as much as others, which biases the policy gradient.

    Args:
      rewards: Rᵢ.
      ddof: 1 or 0.
      epsilon: ε, in units of reward.

    Returns: advantages without unit.
    Raises: nothing.
    Range: at most (G - 1)/√G for ddof = 1, √(G - 1) for 0; a gap of two rewards far below ε gives
      half of gap/ε.
    Relatives: a positive factor and a constant in the rewards change nothing, up to ε. Two samples of different
      rewards get ±0.71, or ±1 with ddof = 0, whatever their gap. `dr_grpo_advantages` leaves s out.
    Elsewhere: ddof is 1 in TRL, verl, OpenRLHF and Tunix, 0 in EasyDeL and open-instruct; the paper does not say. ε is
      1e-4 in TRL and EasyDeL, 1e-6 in verl and Tunix, 1e-8 in open-instruct, 1e-9 in OpenRLHF. A group of one
      keeps its reward as its advantage in verl; here it gets 0.
    Source: Shao et al., "DeepSeekMath", 2024, section 4.1.2 (arXiv:2402.03300).
    """
    differences, valid = centred(rewards)
    count = jnp.sum(valid, axis=-1, keepdims=True)
    return over(differences, root(variance(differences, count, ddof)) + epsilon)


def dr_grpo_advantages(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch G"]:
    """ "GRPO done right": how much above the group's mean.

        Aᵢ = Rᵢ - R̄

    Args:
      rewards: Rᵢ.

    Returns: advantages in units of reward, of mean 0 over the group.
    Raises: nothing.
    Range: within the range of the rewards, less than the gap of the largest and the smallest.
    Relatives: `rloo_advantages` times (G - 1)/G, so the policy gradient is exact up to that factor; `opo_advantages` of
      samples of one length.
    Elsewhere: TRL's `scale_rewards="none"`.
    Source: Liu et al., "Understanding R1-Zero-Like Training", 2025 (arXiv:2503.20783).
    """
    return centred(rewards)[0]


def batch_scaled_advantages(
    rewards: Float[Array, "*batch G"], standard_deviation: Scalar, *, epsilon: Scalar = 1e-4
) -> Float[Array, "*batch G"]:
    """Centred by the group, scaled by the whole batch: prompts on which samples differ more count more.

        Aᵢ = (Rᵢ - R̄) / (s + ε),   R̄ of the group, s of the batch

    Args:
      rewards: Rᵢ.
      standard_deviation: s, of all the rewards of the optimiser step: `reward_standard_deviation`.
      epsilon: ε, in units of reward.

    Returns: advantages without unit.
    Raises: nothing.
    Range: those of `dr_grpo_advantages` over s + ε.
    Relatives: `dr_grpo_advantages` with one factor for the whole step, which an optimiser like Adam does not see.
    Elsewhere: TRL's `scale_rewards="batch"`; Lite PPO and ScaleRL.
    Source: Liu et al., "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning" (Lite PPO), 2025
      (arXiv:2508.08221).
    """
    return over(centred(rewards)[0], standard_deviation + epsilon)


def reward_standard_deviation(rewards: Float[Array, "..."], *, ddof: Scalar = 1) -> Float[Array, ""]:
    """The standard deviation of all rewards given, whatever their groups.

        s = (Σᵢ (Rᵢ - R̄)² / (n - ddof))^1/2

    Args:
      rewards: of any shape: those of a whole optimiser step. nan is left out.
      ddof: 1 or 0.

    Returns: s in units of reward; 0 where there are no two rewards, or no two different ones.
    Raises: nothing.
    Range: finite; the gradient is 0 where s is.
    Elsewhere: ddof is 1 in TRL.
    Source: Student, "The Probable Error of a Mean", 1908.
    """
    differences, valid = centred(jnp.reshape(rewards, -1))
    return root(variance(differences, jnp.sum(valid, axis=-1, keepdims=True), ddof))[0]


def rloo_advantages(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch G"]:
    """Leave-one-out: each sample against the mean of the others, which is independent of it.

        Aᵢ = Rᵢ - 1/(G - 1) Σⱼ≠ᵢ Rⱼ

    So the policy gradient stays unbiased.

    Args:
      rewards: Rᵢ.

    Returns: advantages in units of reward, of mean 0 over the group.
    Raises: nothing.
    Range: within the gap of the largest and the smallest reward.
    Relatives: `dr_grpo_advantages` times G/(G - 1).
    Elsewhere: TRL's RLOO subtracts β log π(y|x)/π₀(y|x) from the reward first, β = 0.05.
    Source: Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019; Ahmadian et al., "Back to
      Basics", 2024 (arXiv:2402.14740).
    """
    differences, valid = centred(rewards)
    count = jnp.sum(valid, axis=-1, keepdims=True)
    return differences * (count / jnp.maximum(count - 1, 1))


def dynamic_sampling_mask(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch"]:
    """DAPO's dynamic sampling: the groups that teach something, whose samples are not all as good.

        1 where maxᵢ Rᵢ > minᵢ Rᵢ, else 0

    Args:
      rewards: Rᵢ, for right and wrong 1 and 0: then it is 0 < accuracy < 1. nan is left out.

    Returns: 1 or 0 for each group. Sample more prompts until enough groups are left; where that is too dear, as a
      weight of a group it keeps the rest out of averages.
    Raises: nothing.
    Range: no gradient.
    Relatives: 0 exactly where `dr_grpo_advantages` are all 0.
    Elsewhere: TRL does not resample, and reports the share of such groups as `frac_reward_zero_std`.
    Source: Yu et al., "DAPO", 2025, eq. 11 (arXiv:2503.14476).
    """
    rewards = wide(rewards)
    absent = jnp.isnan(rewards)
    most = jnp.max(jnp.where(absent, -jnp.inf, rewards), axis=-1, initial=-jnp.inf)
    least = jnp.min(jnp.where(absent, jnp.inf, rewards), axis=-1, initial=jnp.inf)
    return (most > least).astype(rewards.dtype)
