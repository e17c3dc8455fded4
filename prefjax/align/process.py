"""Process reward models: a judge of every step of a solution, read where the step ends."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import PyTree

from prefjax.losses import two_class_process_reward_loss
from prefjax.policy import Policy, token_scores
from prefjax.types import Weighted


def process_objective(policy: Policy) -> Callable:
    """`params, batch, key -> dict of Weighted`: is each step right? Two scores a token, (wrong, right).

    The mean over the steps of the whole optimiser step, as in TRL's PRMTrainer; other tokens count for nothing. A score
    head that starts at 0 has loss log 2.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        scores = token_scores(policy, params, rows["tokens"], rows["lengths"])
        at_ends = jnp.take_along_axis(scores, batch["step_ends"][:, :, None], axis=1)
        mask = batch["step_mask"] * batch["weight"][:, None]
        labels = batch["step_labels"]
        right = (at_ends[..., 1] > at_ends[..., 0]) == (labels > 0.5)
        return {
            "accuracy": Weighted.tokens(right.astype(jnp.float32), mask),
            "loss": Weighted.tokens(two_class_process_reward_loss(at_ends, labels), mask),
        }

    return objective
