"""Supervised fine-tuning: imitate the completions."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import PyTree

from prefjax.losses import nll_loss
from prefjax.policy import Policy, completion_logps
from prefjax.types import Weighted


def sft_objective(policy: Policy, *, max_completion: int) -> Callable:
    """`params, batch, key -> {"loss"}`: the mean over completion tokens of -log π(yₜ|x, y₍<ₜ₎).

    Every token of the whole optimiser step counts once, as in TRL; the prompt is not imitated. Where rows carry a
    "mask" [B, T], only the completion tokens that it marks are.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        logps, mask = completion_logps(
            policy,
            params,
            rows["tokens"],
            rows["prompt_lengths"],
            rows["lengths"],
            max_completion=max_completion,
        )
        if "mask" in rows:
            place = rows["prompt_lengths"][:, None] + jnp.arange(max_completion)[None, :]
            learned = jnp.take_along_axis(rows["mask"], jnp.minimum(place, rows["mask"].shape[1] - 1), axis=1)
            mask = mask * learned
        return {"loss": Weighted.tokens(nll_loss(logps), mask * batch["weight"][:, None])}

    return objective
