"""Rejection fine-tuning: of several completions keep those that were best, and imitate them.

    rollout → rewards → keep_best or keep_above → sft_objective

Source: Dong et al., "RAFT: Reward rAnked FineTuning", 2023 (arXiv:2304.06767); with a threshold, Yuan et al.,
"Scaling Relationship on Learning Mathematical Reasoning", 2023 (arXiv:2308.01825).
"""

import jax
import jax.numpy as jnp

from prefjax.align.online_pairs import taken
from prefjax.align.rollout import grouped
from prefjax.types import Scalar


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

    return jax.vmap(one)({name: batch[name] for name in ("index", "weight", "completion", "reward")})


def keep_above(batch: dict, *, threshold: Scalar) -> dict:
    """The same rows, of which those with a reward below the threshold, or nan, have weight 0."""
    return {**batch, "weight": batch["weight"] * (batch["reward"] >= threshold)}
