"""Pairs that the policy makes itself: online DPO and XPO.

    online DPO   rollout (num_samples=2)   → rewards → preference_pairs → add_reference → paired_objective
    XPO          xpo_rollout               → rewards → preference_pairs → add_reference → xpo_objective

Rewards are any of the rollout's: of a reward model, a judge or Python functions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree

from prefjax.align.paired_losses import PairedLoss
from prefjax.align.pairs import terms_of_pairs
from prefjax.align.rollout import grouped, rollout
from prefjax.losses import xpo_term
from prefjax.policy import Policy
from prefjax.types import Weighted


def preference_pairs(batch: dict, *, num_samples: int = 2) -> dict:
    """[M, B*G, ...] with `reward` → [M, B, ...] with `chosen` and `rejected`: the best and the worst of each prompt.

    Of equal ones the first is chosen and the last rejected, so that of two the first wins a tie, as in TRL. A prompt
    with fewer than two rewards that are not nan has weight 0.
    """

    def one(microbatch):
        reward = grouped(microbatch["reward"], num_samples)
        absent = jnp.isnan(reward)
        best = jnp.argmax(jnp.where(absent, -jnp.inf, reward), axis=1)
        worst = num_samples - 1 - jnp.argmin(jnp.where(absent, jnp.inf, reward)[:, ::-1], axis=1)
        groups = jax.tree.map(lambda leaf: grouped(leaf, num_samples), microbatch)
        chosen, rejected = (taken(groups["completion"], at) for at in (best, worst))
        enough = jnp.sum(~absent, axis=1) >= 2
        return {
            "index": groups["index"][:, 0],
            "weight": groups["weight"][:, 0] * enough,
            "chosen": {**chosen, "reward": taken(reward, best)},
            "rejected": {**rejected, "reward": taken(reward, worst)},
        }

    wanted = {name: batch[name] for name in ("index", "weight", "completion", "reward")}
    return jax.vmap(one)(wanted)


def taken(groups: PyTree, which: Int[Array, " B"]) -> PyTree:
    """[B, G, ...] → [B, ...]: the completion that is asked for in each group."""

    def take(leaf):
        at = which.reshape(-1, *[1] * (leaf.ndim - 1))
        return jnp.take_along_axis(leaf, at, axis=1)[:, 0]

    return jax.tree.map(take, groups)


def xpo_rollout(
    policy: Policy,
    *,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Callable:
    """`params, reference_params, batch of prompts, key -> batch`: of each prompt a pair, of which the policy writes
    the first and the reference the second. `completion["from_reference"]` is 1 for the latter.

        y ~ π(·|x),   ỹ ~ π₀(·|x)

    Source: Xie et al., "Exploratory Preference Optimization", 2024, algorithm 1 (arXiv:2405.21046).
    """
    one_each = rollout(
        policy, num_samples=1, max_new_tokens=max_new_tokens, stop_tokens=stop_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p,
    )  # fmt: skip

    def roll(params: PyTree, reference_params: PyTree, batch: dict, key: Key[Array, ""]) -> dict:
        own = one_each(params, batch, jax.random.fold_in(key, 0))
        other = one_each(reference_params, batch, jax.random.fold_in(key, 1))
        for drawn, flag in ((own, 0.0), (other, 1.0)):
            drawn["completion"]["from_reference"] = jnp.full(drawn["weight"].shape, flag)

        def interleave(first, second):
            return jnp.stack([first, second], axis=2).reshape(first.shape[0], -1, *first.shape[2:])

        return jax.tree.map(interleave, own, other)

    return roll


def xpo_objective(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float = 0.1,
    alpha: float = 1e-5,
    label_smoothing: float = 0.0,
    max_completion: int,
    **settings: Any,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for pairs of `xpo_rollout`, with `reference_logp` if the loss has any.

        loss = loss on the pair + α log π(ỹ|x),   ỹ the reference's own completion

    The paper's loss on pairs is DPO, `PAIRED_LOSSES["sigmoid"]`; its α falls as 1/√(steps). α = 1e-5 was TRL's.
    Where π = π₀, `rewards/margins` is 0 and `loss/dpo` the loss at the start.
    Source: Xie et al., "Exploratory Preference Optimization", 2024, algorithm 1 (arXiv:2405.21046).
    """
    terms_of = terms_of_pairs(
        policy, paired, beta=beta, label_smoothing=label_smoothing, max_completion=max_completion, **settings
    )

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        terms = terms_of(params, batch)
        loss = terms.pop("loss")
        from_reference = batch["chosen"]["from_reference"] > 0
        exploration = xpo_term(
            jnp.where(from_reference, terms["logps/chosen"], terms["logps/rejected"]), alpha=alpha
        )
        terms |= {"loss/dpo": loss, "loss/xpo": exploration, "loss": loss + exploration}
        return {name: Weighted.of(values, batch["weight"]) for name, values in terms.items()}

    return objective
