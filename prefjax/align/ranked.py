"""DPO on ranked lists: several completions of a prompt, best first."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.rows import only_rows, summed_logps
from prefjax.losses import plackett_luce_loss
from prefjax.policy import Policy
from prefjax.types import Weighted


def add_ranked_reference(policy: Policy, *, max_completion: int) -> Callable:
    """`reference_params, batch -> batch` with log π₀ of every completion, `completions["reference_logp"]` [M, B, K]."""

    def add(reference_params: PyTree, batch: dict) -> dict:
        lists = batch["completions"]

        def one(rows):
            return _logps(policy, reference_params, rows, max_completion)

        return {**batch, "completions": {**lists, "reference_logp": jax.lax.map(one, only_rows(lists))}}

    return add


def ranked_objective(policy: Policy, *, beta: float, max_completion: int) -> Callable:
    """`params, batch, key -> dict of Weighted`: Plackett–Luce with the policy's own rewards.

        loss = -Σₖ [rₖ - log Σⱼ₌ₖ^K exp rⱼ],   rₖ = β (log π(yₖ|x) - log π₀(yₖ|x))

    Lists of two are DPO. `ranked` [B, K] is 1 where a list has a completion. Where π = π₀ the loss is log K!.
    Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 20 (arXiv:2305.18290).
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        lists, weight = batch["completions"], batch["weight"]
        present = batch["ranked"] * (weight[:, None] > 0)
        logp = _logps(policy, params, only_rows(lists), max_completion)
        reward = beta * jnp.where(present > 0, logp - lists["reference_logp"], 0.0)
        last = jnp.maximum(jnp.sum(present, axis=1).astype(jnp.int32) - 1, 0)[:, None]
        first, worst = reward[:, 0], jnp.take_along_axis(reward, last, axis=1)[:, 0]
        in_order = (reward[:, :-1] > reward[:, 1:]).astype(jnp.float32)
        return {
            "logps": Weighted.of(logp, present),
            "rewards/chosen": Weighted.of(first, weight),
            "rewards/rejected": Weighted.of(worst, weight),
            "rewards/margins": Weighted.of(first - worst, weight),
            "rewards/accuracies": Weighted.of(in_order, present[:, 1:]),
            "loss": Weighted.of(plackett_luce_loss(reward, present), weight),
        }

    return objective


def _logps(policy: Policy, params: PyTree, rows: dict, max_completion: int) -> Float[Array, "B K"]:
    b, k = rows["lengths"].shape
    flat = jax.tree.map(lambda leaf: leaf.reshape(b * k, *leaf.shape[2:]), rows)
    return summed_logps(policy, params, flat, max_completion=max_completion).reshape(b, k)
