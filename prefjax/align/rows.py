"""Token rows as every objective sees them: a prompt, a completion, and where each ends."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.policy import Policy, completion_logps

# Right-padded rows: the prompt, then the completion with its end-of-sequence token.
#   "tokens" [B, T], "prompt_lengths" [B], "lengths" [B] (of both together)
Rows = dict[str, Any]


def only_rows(batch: dict) -> Rows:
    """The three arrays of `Rows` out of a dict that may carry more."""
    return {name: batch[name] for name in ("tokens", "prompt_lengths", "lengths")}


def stacked(*parts: dict) -> Rows:
    """[B, ...] twice → [2B, ...], interleaved: row i of every part stays on the device that has row i."""

    def stack(*leaves):
        return jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:])

    return jax.tree.map(stack, *[only_rows(part) for part in parts])


def joined(first: dict, second: dict, *, max_completion: int) -> Rows:
    """Prompt, first completion, second completion in one row: what a two-input preference model reads.

    The end-of-sequence token of the first completion is the boundary. Of the second, `max_completion` tokens fit.
    """
    width = first["tokens"].shape[1] + max_completion
    at = jnp.arange(width)[None, :]
    start = first["lengths"][:, None]
    here = jnp.minimum(at, first["tokens"].shape[1] - 1)
    there = jnp.clip(at - start + second["prompt_lengths"][:, None], 0, second["tokens"].shape[1] - 1)
    tokens = jnp.where(
        at < start,
        jnp.take_along_axis(first["tokens"], jnp.broadcast_to(here, (start.shape[0], width)), axis=1),
        jnp.take_along_axis(second["tokens"], there, axis=1),
    )
    lengths = first["lengths"] + jnp.minimum(second["lengths"] - second["prompt_lengths"], max_completion)
    return {"tokens": tokens, "prompt_lengths": first["prompt_lengths"], "lengths": lengths}


def summed_logps(policy: Policy, params, rows: dict, *, max_completion: int) -> Float[Array, " B"]:
    """log π(y|x) = Σₜ log π(yₜ|x, y₍<ₜ₎) over the completion and its end-of-sequence token, in nats."""
    logps, mask = completion_logps(
        policy, params, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=max_completion
    )
    return jnp.sum(logps * mask, axis=-1)


def completion_lengths(rows: dict) -> Float[Array, "*batch"]:
    return (rows["lengths"] - rows["prompt_lengths"]).astype(jnp.float32)
