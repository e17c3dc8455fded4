"""Losses on preference pairs joined to a policy: DPO and its relatives, under the names that TRL gives them."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.rows import completion_lengths, stacked, summed_logps
from prefjax.losses import apo_zero_loss, dpo_loss, hinge_loss, ipo_loss, robust_dpo_loss, sppo_hard_loss
from prefjax.policy import Policy
from prefjax.types import Weighted


class PairedLoss(NamedTuple):
    """A loss on pairs, and whether log-ratios are divided by their completion's length first."""

    loss: Callable[..., Float[Array, "*batch"]]
    per_token: bool = False


PAIRED_LOSSES: dict[str, PairedLoss] = {
    "sigmoid": PairedLoss(dpo_loss),
    "ipo": PairedLoss(ipo_loss, per_token=True),
    "hinge": PairedLoss(hinge_loss),
    "robust": PairedLoss(robust_dpo_loss),
    "apo_zero": PairedLoss(apo_zero_loss),
    "sppo_hard": PairedLoss(sppo_hard_loss),
}


def add_reference(policy: Policy, *, max_completion: int) -> Callable:
    """`reference_params, batch -> batch` with log π₀ of both completions, as `reference_logp`.

    The reference is an input, not a part of the step: it is never differentiated, and what made it is known.
    Leaves are [M, B, ...], one microbatch after another.
    """

    def add(reference_params: PyTree, batch: dict) -> dict:
        def one(microbatch):
            both = summed_logps(policy, reference_params, stacked(*microbatch), max_completion=max_completion)
            return both.reshape(-1, 2)

        logp = jax.lax.map(one, (batch["chosen"], batch["rejected"]))
        return {
            **batch,
            "chosen": {**batch["chosen"], "reference_logp": logp[..., 0]},
            "rejected": {**batch["rejected"], "reference_logp": logp[..., 1]},
        }

    return add


def paired_objective(
    policy: Policy, paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0, max_completion: int
) -> Callable:
    """`params, batch, key -> dict of Weighted` for a batch with reference log-probabilities.

    Both completions go through the policy in one forward pass. Logged rewards are β·ρ of the sums, whatever
    the loss does with them, and have the names they have in TRL.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        chosen, rejected = batch["chosen"], batch["rejected"]
        both = summed_logps(policy, params, stacked(chosen, rejected), max_completion=max_completion)
        chosen_logp, rejected_logp = both.reshape(-1, 2).T
        # Here and not after the loss alone: 0 times the slope of a loss at nan is nan.
        absent = batch["weight"] == 0
        chosen_logratio = jnp.where(absent, 0.0, chosen_logp - chosen["reference_logp"])
        rejected_logratio = jnp.where(absent, 0.0, rejected_logp - rejected["reference_logp"])
        loss = call_by_name(
            paired.loss,
            chosen_logratio=chosen_logratio / _lengths(paired, chosen),
            rejected_logratio=rejected_logratio / _lengths(paired, rejected),
            beta=beta,
            label_smoothing=label_smoothing,
        )
        margin = beta * (chosen_logratio - rejected_logratio)
        return {
            name: Weighted.of(values, batch["weight"])
            for name, values in {
                "logps/chosen": chosen_logp,
                "logps/rejected": rejected_logp,
                "rewards/chosen": beta * chosen_logratio,
                "rewards/rejected": beta * rejected_logratio,
                "rewards/margins": margin,
                "rewards/accuracies": (margin > 0).astype(jnp.float32),
                "loss": loss,
            }.items()
        }

    return objective


def call_by_name(loss: Callable, **vocabulary) -> Float[Array, "*batch"]:
    """Calls a loss with those words of the vocabulary that its equation uses."""
    wanted = inspect.signature(loss).parameters
    return loss(**{name: value for name, value in vocabulary.items() if name in wanted})


def loss_at_start(paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0) -> float:
    """The loss where policy = reference, so that every log-ratio is 0: what the first step must show."""
    zero = jnp.zeros(())
    return float(
        call_by_name(
            paired.loss,
            chosen_logratio=zero,
            rejected_logratio=zero,
            beta=beta,
            label_smoothing=label_smoothing,
        )
    )


def _lengths(paired: PairedLoss, rows: dict) -> Float[Array, " B"] | float:
    return jnp.maximum(completion_lengths(rows), 1.0) if paired.per_token else 1.0
