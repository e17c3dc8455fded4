"""Losses on single completions joined to a policy: KTO and BCO, on rows that were labelled as liked or not.

A batch is {"index", "weight", "label" 1/0, "completion"}, leaves [M, B, ...]. What these losses compare a completion
with is a statistic of the whole optimiser step, added before the objective:

    kto                 add_unpaired_reference → add_mismatched_kl → unpaired_objective
    apo_zero_unpaired   add_unpaired_reference → unpaired_objective
    bco                 add_unpaired_reference → add_mean_reward → unpaired_objective
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from prefjax.align.paired_losses import call_by_name
from prefjax.align.rows import joined, only_rows, summed_logps
from prefjax.losses import apo_zero_unpaired_loss, bco_loss, bco_shift, kto_kl, kto_loss
from prefjax.policy import Policy
from prefjax.types import Scalar, Weighted


class UnpairedLoss(NamedTuple):
    """A loss on single completions.

    Attributes:
      loss: takes any of `logratio`, `desirable`, `beta`, `kl`, `shift`, and settings of its own, by name.
      statistic: the number of the whole step that the batch has to hold beside the rows: "kl", "shift" or none.
    """

    loss: Callable[..., Float[Array, "*batch"]]
    statistic: str = ""


UNPAIRED_LOSSES: dict[str, UnpairedLoss] = {
    "kto": UnpairedLoss(kto_loss, "kl"),
    "apo_zero_unpaired": UnpairedLoss(apo_zero_unpaired_loss),
    "bco": UnpairedLoss(bco_loss, "shift"),
}


def add_unpaired_reference(policy: Policy, *, max_completion: int) -> Callable:
    """`reference_params, batch -> batch` with log π₀ of every completion, as `completion["reference_logp"]`."""

    def add(reference_params: PyTree, batch: dict) -> dict:
        def one(rows):
            return summed_logps(policy, reference_params, rows, max_completion=max_completion)

        rows = batch["completion"]
        logp = jax.lax.map(one, only_rows(rows))
        # The share of desirable rows, which makes a difference of two means a mean over rows.
        share = Weighted.of(batch["label"], batch["weight"]).mean()
        return {
            **batch,
            "completion": {**rows, "reference_logp": logp},
            "desirable": jnp.full(logp.shape, share),
        }

    return add


def add_mismatched_kl(policy: Policy, *, max_completion: int) -> Callable:
    """`params, reference_params, batch -> batch` with `kl`, the reference point z₀ of KTO, the same for every row.

        z₀ = max(0, mean over i of log π(yᵢ₋₁|xᵢ) - log π₀(yᵢ₋₁|xᵢ))

    Each prompt gets the completion of the row before it, the first that of the last one, over the real rows of the
    whole optimiser step. TRL turns them within what one device sees at a time, and so its estimate depends on
    that; the two are the same where that is the whole step. A step of one row compares it with itself.
    Source: Ethayarajh et al., "KTO", 2024, section 4.1 (arXiv:2402.01306).
    """

    def add(params: PyTree, reference_params: PyTree, batch: dict) -> dict:
        rows, weight = only_rows(batch["completion"]), batch["weight"]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
        before = _row_before(weight.reshape(-1))
        others = jax.tree.map(lambda leaf: leaf[before].reshape(*weight.shape, *leaf.shape[1:]), flat)

        def one(pair):
            own, other = pair
            empty = {**own, "lengths": own["prompt_lengths"]}
            mixed = joined(empty, other, max_completion=max_completion)
            return [
                summed_logps(policy, tree, mixed, max_completion=max_completion)
                for tree in (params, reference_params)
            ]

        ours, theirs = jax.lax.map(one, (rows, others))
        kl = jnp.maximum(kto_kl(ours - theirs, weight).mean(), 0.0)
        return {**batch, "kl": jnp.full(weight.shape, kl)}

    return add


def add_mean_reward(policy: Policy, *, beta: float, max_completion: int) -> Callable:
    """`params, batch, so_far -> batch, so_far`, the batch with `shift`, the δ of BCO, the same for every row.

        δ = mean of β log π(y|x)/π₀(y|x) over all rows seen so far, those of this step included

    `so_far` is the `Weighted` of the steps before: carry it from step to step (and in a checkpoint), and start with
    `Weighted(0, 0)`. Starting every step with that makes δ the mean of the step alone.
    Source: Jung et al., "Binary Classifier Optimization", 2024 (arXiv:2404.04656); TRL's BCOTrainer.
    """

    def add(params: PyTree, batch: dict, so_far: Weighted) -> tuple[dict, Weighted]:
        def one(rows):
            return summed_logps(policy, params, rows, max_completion=max_completion)

        rows, weight = batch["completion"], batch["weight"]
        logratio = jax.lax.map(one, only_rows(rows)) - rows["reference_logp"]
        seen = jax.tree.map(jnp.add, so_far, bco_shift(logratio, weight, beta=beta))
        return {**batch, "shift": jnp.full(weight.shape, seen.mean())}, seen

    return add


def unpaired_objective(
    policy: Policy, unpaired: UnpairedLoss, *, beta: float, max_completion: int, **settings: Scalar
) -> Callable:
    """`params, batch, key -> dict of Weighted` for a batch with `reference_logp` and the statistic of the loss.

    The mean is over completions, whatever `desirable_weight` and `undesirable_weight` (settings of KTO) are.
    Names of metrics are TRL's: `rewards/margins` is the difference of the means of the two labels.
    Where π = π₀, `rewards/margins` and `kl` are 0, and the loss is 1/2 (kto, with weights 1), log 2 (bco).
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows, weight, desirable = batch["completion"], batch["weight"], batch["label"]
        logp = summed_logps(policy, params, only_rows(rows), max_completion=max_completion)
        logratio = jnp.where(weight == 0, 0.0, logp - rows["reference_logp"])
        statistic = {name: _the_number(batch, name) for name in (unpaired.statistic,) if name}
        loss = call_by_name(
            unpaired.loss,
            **{
                "logratio": logratio,
                "desirable": desirable,
                "beta": beta,
                "kl": 0.0,
                **statistic,
                **settings,
            },
        )
        reward, share = beta * logratio, batch["desirable"]
        signed = jnp.where(desirable > 0, 1 / jnp.maximum(share, 1e-6), -1 / jnp.maximum(1 - share, 1e-6))
        liked, disliked = weight * desirable, weight * (1 - desirable)
        return {
            **{name: Weighted.of(batch[name], weight) for name in statistic},
            "logps/chosen": Weighted.of(logp, liked),
            "logps/rejected": Weighted.of(logp, disliked),
            "rewards/chosen": Weighted.of(reward, liked),
            "rewards/rejected": Weighted.of(reward, disliked),
            "rewards/margins": Weighted.of(reward * signed, weight),
            "loss": Weighted.of(loss, weight),
        }

    return objective


def _row_before(weight: Float[Array, " N"]) -> Int[Array, " N"]:
    """Of every real row the real one before it, and of the first the last; of others themselves."""
    rows = jnp.arange(weight.shape[0])
    order = jnp.argsort(weight == 0, stable=True)
    real = jnp.sum(weight != 0)
    rank = jnp.argsort(order)
    before = order[jnp.where(rank == 0, real - 1, rank - 1)]
    return jnp.where(weight == 0, rows, before)


def _the_number(batch: dict, name: str) -> Float[Array, ""]:
    """A statistic of the step, out of its repetitions."""
    return batch[name][0]
