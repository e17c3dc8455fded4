"""Learned judges: scalar reward models and two-input preference models, how they learn and how they judge."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.rows import joined, stacked
from prefjax.losses import bradley_terry_loss, preference_model_loss
from prefjax.policy import Policy, scores
from prefjax.rewards import bradley_terry_probability, two_input_probability
from prefjax.types import Weighted


def rewards(policy: Policy, params: PyTree, rows: dict) -> Float[Array, " B"]:
    """r(x, y): the score at the last token of the completion."""
    return scores(policy, params, rows["tokens"], rows["lengths"])[:, 0]


def both_orders(
    policy: Policy, params: PyTree, first: dict, second: dict, *, max_completion: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """s(x, y, y') and s(x, y', y): one model reads both completions, once in each order."""
    orders = stacked(
        joined(first, second, max_completion=max_completion), joined(second, first, max_completion=max_completion)
    )
    score, swapped = rewards(policy, params, orders).reshape(-1, 2).T
    return score, swapped


def reward_objective(policy: Policy) -> Callable:
    """`params, batch, key -> dict of Weighted`: Bradley–Terry on pairs, as TRL's RewardTrainer."""

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        chosen, rejected = rewards(policy, params, stacked(batch["chosen"], batch["rejected"])).reshape(-1, 2).T
        return {
            name: Weighted.of(values, batch["weight"])
            for name, values in {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "margin": chosen - rejected,
                "accuracy": _half_ties(chosen - rejected),
                "loss": bradley_terry_loss(chosen, rejected),
            }.items()
        }

    return objective


def preference_objective(policy: Policy, *, max_completion: int) -> Callable:
    """`params, batch, key -> dict of Weighted`: cross-entropy of the two-input model, antisymmetric by construction."""

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        score, swapped = both_orders(
            policy, params, batch["chosen"], batch["rejected"], max_completion=max_completion
        )
        return {
            name: Weighted.of(values, batch["weight"])
            for name, values in {
                "score": score,
                "swapped_score": swapped,
                "accuracy": _half_ties(score - swapped),
                "loss": preference_model_loss(score, swapped),
            }.items()
        }

    return objective


def reward_judge(policy: Policy) -> Callable:
    """`params, rows, other rows -> P(y ≻ y' | x)` = σ(r(x, y) - r(x, y')): always transitive."""

    def judge(params: PyTree, first: dict, second: dict) -> Float[Array, " B"]:
        both = rewards(policy, params, stacked(first, second)).reshape(-1, 2)
        return bradley_terry_probability(both[:, 0], both[:, 1])

    return judge


def preference_judge(policy: Policy, *, max_completion: int) -> Callable:
    """`params, rows, other rows -> P(y ≻ y' | x)` of a two-input model: cycles are possible."""

    def judge(params: PyTree, first: dict, second: dict) -> Float[Array, " B"]:
        return two_input_probability(*both_orders(policy, params, first, second, max_completion=max_completion))

    return judge


def _half_ties(margin: Float[Array, " B"]) -> Float[Array, " B"]:
    # A tie is half right; counted as wrong, an untrained constant model would score 0.
    return jnp.where(margin == 0, 0.5, (margin > 0).astype(jnp.float32))
