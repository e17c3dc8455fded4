"""Rewards of tokens and completions, made from a score: its scale, its limits, the price of leaving the reference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned, one_each
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
    gradient on it follows exactly that.

    Args:
      scores: R of each completion; nan, of a score that could not be computed, stays nan at its token.
      logps: log π of each token under the policy that *sampled* it, in nats.
      reference_logps: log π₀ of the same tokens.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything.
      beta: β ≥ 0, the price of a nat; TRL's `kl_coef` of PPO and `beta` of RLOO, 0.05 in both.

    Returns: rewards, without gradient, 0 where the mask is.
    Raises: InputError where the shapes disagree.
    Range: linear in scores and log-ratios, any of them fine.
    Relatives: β = 0 leaves the score alone. With scores of 0 this is the price alone, to be added to
      `segment_rewards`, where a score is dense.
    Elsewhere: TRL's PPO puts R one slot later, behind the end of sequence, where there is room, and its RLOO takes
      the sum over tokens, then its baseline. TRL's PPO can estimate the price by k3, whose policy gradient is not
      that of the KL.
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


def standardised_rewards(
    rewards: Float[Array, "*batch"],
    mean: Scalar | Float[Array, "*batch"],
    deviation: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """How many standard deviations above a mean that was taken elsewhere.

        R = (r - r̄)/s

    Args:
      rewards: r of a completion.
      mean: r̄, of all rewards seen so far (`RunningRewards.mean`), of a reference set, of a group.
      deviation: s, likewise; 0 counts as 1.

    Returns: rewards without unit.
    Raises: InputError where the shapes differ.
    Range: linear, slope 1/s.
    Relatives: `returns.grpo_advantages` takes mean and s from the group. Affine, so it changes no optimum under a KL
      penalty whose coefficient goes along.
    Elsewhere: "mean-std" of PAR's code takes both from all of training so far, the current batch included.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, a baseline (arXiv:2502.18770).
    """
    rewards, mean, deviation = aligned(
        "standardised_rewards",
        rewards=rewards,
        mean=one_each(mean, rewards),
        deviation=one_each(deviation, rewards),
    )
    return (rewards - mean) / jnp.where(deviation == 0, 1.0, deviation)


def min_max_rewards(
    rewards: Float[Array, "*batch"],
    lowest: Scalar | Float[Array, "*batch"],
    highest: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Where a reward lies between two others: 0 at the lowest, 1 at the highest.

        R = (r - low)/(high - low)

    Args:
      rewards: r of a completion.
      lowest: low, the least reward seen so far: `RunningRewards.lowest`.
      highest: high, likewise. Equal to the lowest, their distance counts as 1.

    Returns: rewards without unit; outside [0, 1] where r lies outside.
    Raises: InputError where the shapes differ.
    Range: linear, slope 1/(high - low), which one outlier of training flattens for good.
    Relatives: `standardised_rewards`, affine as well.
    Elsewhere: "minmax" of PAR's code is running as here, not over the batch.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, a baseline (arXiv:2502.18770).
    """
    rewards, lowest, highest = aligned(
        "min_max_rewards",
        rewards=rewards,
        lowest=one_each(lowest, rewards),
        highest=one_each(highest, rewards),
    )
    return (rewards - lowest) / jnp.where(highest == lowest, 1.0, highest - lowest)


def clipped_rewards(
    rewards: Float[Array, "*batch"],
    lowest: Scalar | Float[Array, "*batch"],
    highest: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Rewards held between two limits.

        R = min(max(r, low), high)

    Args:
      rewards: r of a completion; nan stays nan.
      lowest: low; -inf for a ceiling alone ("ceil" of PAR's ablation, at 3 to 5).
      highest: high. r̄ ∓ s of all rewards seen so far are the "clip" of the same paper.

    Returns: rewards in units of reward.
    Raises: InputError where the shapes differ.
    Range: between the limits; slope 1 within, 0 beyond, where a policy gradient sees no difference any more.
    Relatives: `par_rewards` saturates without a corner.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, baselines (arXiv:2502.18770).
    """
    rewards, lowest, highest = aligned(
        "clipped_rewards",
        rewards=rewards,
        lowest=one_each(lowest, rewards),
        highest=one_each(highest, rewards),
    )
    return jnp.clip(rewards, lowest, highest)


def length_penalised_rewards(
    rewards: Float[Array, "*batch"],
    lengths: Shaped[Array, "*batch"],
    *,
    free: Scalar = 300,
    price: Scalar = 0.01,
) -> Float[Array, "*batch"]:
    """A reward less a price for every token beyond a free number of them.

        R = r - p max(0, n - n₀)

    Args:
      rewards: r of a completion.
      lengths: n, its tokens.
      free: n₀, tokens.
      price: p, reward a token.

    Returns: rewards in units of reward.
    Raises: InputError where the shapes differ.
    Range: linear, unbounded below.
    Relatives: p = 0 leaves rewards as they are.
    Elsewhere: PAR's code subtracts it before any shaping, for every method that it compares.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, code (arXiv:2502.18770).
    """
    rewards, lengths = aligned("length_penalised_rewards", rewards=rewards, lengths=lengths)
    return rewards - price * jnp.maximum(lengths.astype(rewards.dtype) - free, 0.0)
