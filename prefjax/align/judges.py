"""Learned judges: how reward models and two-input preference models are trained, and how they judge.

A judge is `params, rows, other rows -> P(y ≻ y' | x)`. What a model's score head has decides which it is:

    reward      one score r(x, y)            P = σ(r - r')                     always transitive
    joint       one score s(x, y, y')        P = σ((s(x, y, y') - s(x, y', y)) / 2)    reads both completions
    bilinear    2k scores v(x, y)            P = σ(Σⱼ v₂ⱼ v'₂ⱼ₊₁ - v₂ⱼ₊₁ v'₂ⱼ)         reads each once

The last two are antisymmetric by construction and can represent cycles; bilinear contains Bradley–Terry (k = 1,
v = (r, 1)), costs one pass a completion and needs fewer pairs.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.rows import joined, stacked
from prefjax.checks import require
from prefjax.losses import bradley_terry_loss, preference_model_loss
from prefjax.policy import Policy, scores
from prefjax.rewards import bradley_terry_probability, two_input_probability
from prefjax.types import Weighted

PreferenceForm = Literal["joint", "bilinear"]


def rewards(policy: Policy, params: PyTree, rows: dict) -> Float[Array, " B"]:
    """r(x, y): the score at the last token of the completion. Raises InputError unless the model has one score."""
    _check_head(policy, "reward")
    return scores(policy, params, rows["tokens"], rows["lengths"])[:, 0]


def antisymmetric_score(
    own: Float[Array, "*batch K"], other: Float[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """⟨R v, v'⟩ = Σⱼ v₂ⱼ v'₂ⱼ₊₁ - v₂ⱼ₊₁ v'₂ⱼ, whose sign turns when the arguments change places.

    Source: the general preference embedding of Zhang et al., 2024 (arXiv:2410.02197).
    """
    return jnp.sum(own[..., 0::2] * other[..., 1::2] - own[..., 1::2] * other[..., 0::2], axis=-1)


def both_orders(
    policy: Policy, params: PyTree, first: dict, second: dict, *, form: PreferenceForm, max_completion: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """s(x, y, y') and s(x, y', y) of a two-input model of either form.

    Raises: InputError when the model's number of scores does not fit the form.
    """
    _check_head(policy, form)
    if form == "joint":
        orders = stacked(
            joined(first, second, max_completion=max_completion),
            joined(second, first, max_completion=max_completion),
        )
        both = rewards(policy, params, orders).reshape(-1, 2)
        return both[:, 0], both[:, 1]
    rows = stacked(first, second)
    v = scores(policy, params, rows["tokens"], rows["lengths"])
    v = v.reshape(-1, 2, v.shape[-1])
    return antisymmetric_score(v[:, 0], v[:, 1]), antisymmetric_score(v[:, 1], v[:, 0])


def reward_objective(policy: Policy) -> Callable:
    """`params, batch, key -> dict of Weighted`: Bradley–Terry on pairs, as TRL's RewardTrainer."""

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        both = rewards(policy, params, stacked(batch["chosen"], batch["rejected"])).reshape(-1, 2)
        chosen, rejected = both[:, 0], both[:, 1]
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


def preference_objective(policy: Policy, *, form: PreferenceForm, max_completion: int) -> Callable:
    """`params, batch, key -> dict of Weighted`: cross-entropy of P(chosen ≻ rejected) of a two-input model."""

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        score, swapped = both_orders(
            policy, params, batch["chosen"], batch["rejected"], form=form, max_completion=max_completion
        )
        return {
            name: Weighted.of(values, batch["weight"])
            for name, values in {
                "margin": (score - swapped) / 2,
                "accuracy": _half_ties(score - swapped),
                "loss": preference_model_loss(score, swapped),
            }.items()
        }

    return objective


def reward_judge(policy: Policy) -> Callable:
    """The judge that a reward model is."""

    def judge(params: PyTree, first: dict, second: dict) -> Float[Array, " B"]:
        both = rewards(policy, params, stacked(first, second)).reshape(-1, 2)
        return bradley_terry_probability(both[:, 0], both[:, 1])

    return judge


def preference_judge(policy: Policy, *, form: PreferenceForm, max_completion: int) -> Callable:
    """The judge that a two-input preference model of this form is."""

    def judge(params: PyTree, first: dict, second: dict) -> Float[Array, " B"]:
        return two_input_probability(
            *both_orders(policy, params, first, second, form=form, max_completion=max_completion)
        )

    return judge


def _half_ties(margin: Float[Array, " B"]) -> Float[Array, " B"]:
    # A tie is half right; counted as wrong, an untrained constant model would score 0.
    return jnp.where(margin == 0, 0.5, (margin > 0).astype(jnp.float32))


def _check_head(policy: Policy, judge: str) -> None:
    k = policy.config.num_scores
    good = k >= 2 and k % 2 == 0 if judge == "bilinear" else k == 1
    require(
        good, f"{judge} judge", f"a model with {k} scores",
        "an even number of scores, 2 or more" if judge == "bilinear" else "one score", "Load it with that num_scores.",
    )  # fmt: skip
