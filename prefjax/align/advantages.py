"""Advantages of a finished rollout: what depends on other rows, written down before a step looks at any.

These functions see all rows of an optimiser step at once, [M, B*G, ...], and leave each row with what it needs: its
advantage, whether it is learned from, statistics. An objective then sees one microbatch and needs nobody else's, so
that how the rows were cut cannot show. Names of settings and of metrics are TRL's where they mean the same.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.align.rollout import grouped
from prefjax.align.rows import completion_lengths
from prefjax.returns import (
    batch_scaled_advantages,
    dr_grpo_advantages,
    grpo_advantages,
    reward_standard_deviation,
    rloo_advantages,
)
from prefjax.rewards import kl_shaped_rewards
from prefjax.types import Scalar, Weighted

Scale = Literal["group", "batch", "none"]


def add_grpo_advantages(
    *, num_samples: int, scale_rewards: Scale = "group", mask_truncated_completions: bool = False
) -> Callable:
    """`batch -> batch` with the advantages of GRPO, from `reward` [M, B*G].

        Aᵢ = (Rᵢ - R̄) / (s + 1e-4)      R̄ of the group; s of the group, of the whole step ("batch"), or none

    Args:
      num_samples: G, completions of a prompt.
      scale_rewards: "none" is Dr. GRPO's, and RLOO's up to a factor.
      mask_truncated_completions: nothing is learned from completions that ran out of room (DAPO's overlong
        filtering). Their rewards are still compared with, and as in TRL they count as sequences.

    A reward of nan takes no part, and has advantage 0. `frac_reward_zero_std` is of groups whatever the scale.
    Source: see `grpo_advantages`, `batch_scaled_advantages`, `dr_grpo_advantages`.
    """
    of_group = {"group": grpo_advantages, "none": dr_grpo_advantages}

    def add(batch: dict) -> dict:
        present = present_rewards(batch)
        groups = grouped(present.reshape(-1), num_samples)
        if scale_rewards == "batch":
            scaled = batch_scaled_advantages(groups, reward_standard_deviation(groups))
        else:
            scaled = of_group[scale_rewards](groups)
        return _finished(batch, scaled, groups, mask_truncated_completions)

    return add


def add_rloo_advantages(
    *, num_samples: int, beta: float = 0.05, normalize_advantages: bool = False,
    mask_truncated_completions: bool = False,
) -> Callable:  # fmt: skip
    """`batch -> batch` with leave-one-out advantages; the price of KL is part of the reward.

        Aᵢ = Rᵢ' - 1/(G - 1) Σⱼ≠ᵢ Rⱼ',   R' = R - β log π(y|x)/π₀(y|x)

    With `num_samples` the number of all rows of the step the baseline is that of all the others: REINFORCE, for
    rollouts of one completion a prompt. It needs `reference_logps` unless β = 0.

    Args:
      normalize_advantages: whiten them over the step, (A - Ā) / (s + 1e-4), as TRL does if asked.

    Source: Ahmadian et al., "Back to Basics", 2024 (arXiv:2402.14740); the settings of TRL's RLOOTrainer.
    """

    def add(batch: dict) -> dict:
        rows, present = batch["completion"], present_rewards(batch)
        shaped = present
        if beta != 0:
            mask = token_mask(rows, width=rows["behaviour_logps"].shape[-1])
            priced = kl_shaped_rewards(
                jnp.zeros_like(present), rows["behaviour_logps"], rows["reference_logps"], mask, beta=beta
            )
            shaped = present + jnp.sum(priced, axis=-1)
        groups = grouped(shaped.reshape(-1), num_samples)
        left_out = rloo_advantages(groups)
        if normalize_advantages:
            valid = ~jnp.isnan(groups)
            mean = jnp.sum(left_out) / jnp.maximum(jnp.sum(valid), 1)
            spread = reward_standard_deviation(jnp.where(valid, left_out, jnp.nan))
            left_out = jnp.where(valid, (left_out - mean) / (spread + 1e-4), 0.0)
        return _finished(batch, left_out, groups, mask_truncated_completions)

    return add


def rollout_metrics(batch: dict) -> dict[str, Weighted]:
    """What the rollout was like: rewards, lengths, and the statistics of the whole step."""
    rows, weight = batch["completion"], batch["weight"]
    lengths, stopped = completion_lengths(rows), rows["stopped"]
    scored = weight * (~jnp.isnan(batch["reward"])).astype(jnp.float32)
    return {
        "reward": Weighted.of(batch["reward"], scored),
        **{name: Weighted.of(values, weight) for name, values in batch.get("statistics", {}).items()},
        "completions/mean_length": Weighted.of(lengths, weight),
        "completions/mean_terminated_length": Weighted.of(lengths, weight * stopped),
        "completions/clipped_ratio": Weighted.of(1.0 - stopped, weight),
    }


def add_statistics(batch: dict, numbers: Mapping[str, Scalar]) -> dict:
    """Numbers of the whole step, repeated for every row: their weighted mean is the number again."""
    shape = batch["weight"].shape
    repeated = {name: jnp.full(shape, number, jnp.float32) for name, number in numbers.items()}
    return {**batch, "statistics": {**batch.get("statistics", {}), **repeated}}


def token_mask(rows: dict, *, width: int) -> Float[Array, "*batch C"]:
    """1 where a completion has a token."""
    lengths = (rows["lengths"] - rows["prompt_lengths"])[..., None]
    place = jnp.arange(width).reshape((1,) * (lengths.ndim - 1) + (-1,))
    return (place < lengths).astype(jnp.float32)


def present_rewards(batch: dict) -> Float[Array, "*batch"]:
    """Rewards, with nan also for rows that only fill a batch: no statistic counts them then."""
    return jnp.where(batch["weight"] > 0, batch["reward"], jnp.nan)


def learned_rows(batch: dict, *, mask_truncated_completions: bool) -> dict:
    """Adds to `completion` what averages over a whole rollout ask for.

    `learned` is 0 for rows that nothing is learned from; `mean_length` the tokens of the others, divided by the number
    of all rows, and the same for every row.
    """
    rows, weight = batch["completion"], batch["weight"]
    learned = rows["stopped"] if mask_truncated_completions else jnp.ones_like(weight)
    # At least one token: a step in which nothing is learned has the gradient 0, not 0/0.
    tokens = jnp.maximum(jnp.sum(completion_lengths(rows) * weight * learned), 1.0)
    mean_length = jnp.full(weight.shape, tokens / jnp.maximum(jnp.sum(weight), 1.0))
    return {**batch, "completion": {**rows, "learned": learned, "mean_length": mean_length}}


def rollout_statistics(batch: dict) -> dict:
    """Adds `reward_std` and the lengths of the shortest and the longest completion."""
    lengths, weight = completion_lengths(batch["completion"]), batch["weight"]
    numbers = {
        "reward_std": reward_standard_deviation(present_rewards(batch)),
        "completions/min_length": jnp.min(jnp.where(weight > 0, lengths, jnp.inf)),
        "completions/max_length": jnp.max(jnp.where(weight > 0, lengths, 0.0)),
    }
    return add_statistics(batch, numbers)


def _finished(batch: dict, advantages, groups, mask_truncated_completions: bool) -> dict:
    shape, absent = batch["weight"].shape, jnp.isnan(groups)
    most = jnp.max(jnp.where(absent, -jnp.inf, groups), axis=-1)
    least = jnp.min(jnp.where(absent, jnp.inf, groups), axis=-1)
    flat = jnp.repeat((most <= least).astype(jnp.float32), groups.shape[-1])
    batch = learned_rows(rollout_statistics(batch), mask_truncated_completions=mask_truncated_completions)
    return {
        **batch,
        "completion": {**batch["completion"], "advantages": advantages.reshape(shape)},
        "statistics": {**batch["statistics"], "frac_reward_zero_std": flat.reshape(shape)},
    }
