"""Rejection fine-tuning: of several completions keep those that were best, and imitate them.

    rollout → rewards → keep_best or keep_above → rejection_objective

Source: Dong et al., "RAFT: Reward rAnked FineTuning", 2023 (arXiv:2304.06767); with a threshold, Yuan et al.,
"Scaling Relationship on Learning Mathematical Reasoning", 2023 (arXiv:2308.01825).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from prefjax.align.advantages import add_statistics, present_rewards, rollout_metrics
from prefjax.align.online_pairs import taken
from prefjax.align.rollout import grouped
from prefjax.align.supervised import sft_objective
from prefjax.policy import Policy
from prefjax.types import Scalar, Weighted


def keep_best(batch: dict, *, num_samples: int) -> dict:
    """[M, B*G, ...] with `reward` → [M, B, ...]: of each prompt the completion with the largest reward.

    With a judge's mean preferences for rewards this is `best_of_n`, and so is imitating the best of n. Of equal ones
    the first. nan is never the best; a prompt that has nothing else has weight 0.
    """

    def one(microbatch):
        reward = grouped(microbatch["reward"], num_samples)
        scored = jnp.where(jnp.isnan(reward), -jnp.inf, reward)
        groups = jax.tree.map(lambda leaf: grouped(leaf, num_samples), microbatch)
        kept = taken(groups, jnp.argmax(scored, axis=1))
        return {**kept, "weight": kept["weight"] * ~jnp.all(jnp.isnan(reward), axis=1)}

    kept = jax.vmap(one)({name: batch[name] for name in ("index", "weight", "completion", "reward")})
    return _with_mean_reward(kept, batch)


def keep_above(batch: dict, *, threshold: Scalar) -> dict:
    """The same rows, of which those with a reward below the threshold, or nan, have weight 0."""
    kept = {**batch, "weight": batch["weight"] * (batch["reward"] >= threshold)}
    return _with_mean_reward(kept, batch)


def rejection_objective(policy: Policy, *, max_new_tokens: int) -> Callable:
    """`params, batch, key -> dict of Weighted`: `sft_objective` on what was kept.

    `reward` is the mean of all that was drawn, `reward/kept` of what is imitated; the other metrics of the rollout are
    of what is imitated. Where nothing was kept the loss and its weight are 0.
    """
    imitate = sft_objective(policy, max_completion=max_new_tokens)

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        drawn = rollout_metrics(batch)
        kept = Weighted.of(batch["reward"], batch["weight"])
        return {**drawn, "reward/kept": kept, **imitate(params, batch, key)}

    return objective


def _with_mean_reward(kept: dict, batch: dict) -> dict:
    rewards = present_rewards(batch)
    scored = ~jnp.isnan(rewards)
    return add_statistics(kept, {"reward": Weighted.of(rewards, scored.astype(jnp.float32)).mean()})
