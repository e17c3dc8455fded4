"""Supervised fine-tuning: imitate the completions."""

from collections.abc import Callable

from jaxtyping import PyTree

from prefjax.losses import nll_loss
from prefjax.policy import Policy, completion_logps
from prefjax.types import Weighted


def sft_objective(policy: Policy, *, max_completion: int) -> Callable:
    """`params, batch, key -> {"loss"}`: the mean over completion tokens of -log π(yₜ|x, y₍<ₜ₎).

    Every token of the whole optimiser step counts once, as in TRL; the prompt is not imitated.
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
        return {"loss": Weighted.tokens(nll_loss(logps), mask * batch["weight"][:, None])}

    return objective
