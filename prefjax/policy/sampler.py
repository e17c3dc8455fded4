"""Completions from a policy, or from a mixture of two: prefill and decode in one compiled program."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from prefjax.checks import require
from prefjax.policy.decoder import Places
from prefjax.policy.distribution import draw_next
from prefjax.policy.functional import Policy, in_compute_dtype, logits
from prefjax.types import Scalar


class Samples(NamedTuple):
    """Prompts with their completions, ready to be trained on or decoded.

    Attributes:
      tokens: prompt, and right behind it the completion, then zeros.
      prompt_lengths: tokens of the prompt.
      lengths: tokens of prompt and completion, the stop token included.
      logps: of each completion token under the distribution that it was drawn from; 0 where there is none.
      mask: 1 where there is a completion token.
      stopped: whether the row ended with a stop token, rather than by running out of room.
    """

    tokens: Int[Array, "B P+N"]
    prompt_lengths: Int[Array, " B"]
    lengths: Int[Array, " B"]
    logps: Float[Array, "B N"]
    mask: Float[Array, "B N"]
    stopped: Bool[Array, " B"]


class Mixture(NamedTuple):
    """The other half of a geometric mixture: parameters of the same architecture, and their share.

    π_mix(y) ∝ π(y)^(1-coef) π_other(y)^coef    at each token
    """

    params: PyTree
    coef: Scalar


class _Progress(NamedTuple):
    step: Int[Array, ""]
    hidden: list  # of each model, [B, D]: what the next token is drawn from
    caches: list  # of each model, a pair a block
    tokens: Int[Array, "B N"]
    logps: Float[Array, "B N"]
    written: Int[Array, " B"]
    stopped: Bool[Array, " B"]


def sample(
    policy: Policy,
    params: PyTree,
    prompts: Int[Array, "B P"],
    prompt_lengths: Int[Array, " B"],
    key: Key[Array, "*rows"],
    *,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    temperature: Scalar | int = 1.0,
    top_k: Scalar | int = 0,
    top_p: Scalar | int = 1.0,
    mixture: Mixture | None = None,
) -> Samples:
    """Draws a completion of each prompt.

    Compiles once for each shape, `max_new_tokens`, `stop_tokens`, and with or without a mixture; all else is
    traced. Ends as soon as every row has stopped. What a row draws depends on its own key and its own
    prompt: not on the other rows, nor on how far the batch is padded (but for the last bit of a matrix
    product, which may depend on its shape).

    Args:
      policy, params: a language model.
      prompts: right padded, [B, P].
      prompt_lengths: how many tokens of each are real, at least 1.
      key: one key, from which row i takes `fold_in(key, i)`; or a key for each row.
      max_new_tokens: N, static, at least 1.
      stop_tokens: static. A row ends with the first of these that it draws, which is part of the completion.
      temperature, top_k, top_p: see `next_token_logits`. The defaults draw from the policy itself.
        At temperature 0 tokens are certain, so their log-probability is 0.
      mixture: draw from the per-token geometric mixture instead: softmax of (1 - coef) · logits of the policy
        + coef · logits of the other, to which then temperature, top-k and top-p apply. One loop, two caches.

    Returns: the samples. `logps` are of the distribution drawn from, after mixture, temperature and filters.
    Raises: InputError for a policy without an output head, or a number out of its range.
    Source: mixture, Munos et al., "Nash Learning from Human Feedback", 2023, section 7 (arXiv:2312.00886).
    """
    _check_numbers(max_new_tokens, temperature, top_k, top_p)
    # As arrays, so that 1 and 1.0, given or by default, are the same program.
    if mixture is not None:
        mixture = Mixture(mixture.params, jnp.asarray(mixture.coef, jnp.float32))
    return _sample(
        policy,
        params,
        prompts,
        prompt_lengths,
        key,
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(top_k, jnp.int32),
        jnp.asarray(top_p, jnp.float32),
        mixture,
        max_new_tokens=max_new_tokens,
        stop_tokens=tuple(stop_tokens),
    )


def _check_numbers(max_new_tokens, temperature, top_k, top_p) -> None:
    """Of what is a number now; one that is traced was checked, if at all, where it came from."""
    for name, value, within, expected in (
        ("max_new_tokens", max_new_tokens, lambda x: x >= 1, "a completion has room for at least one token"),
        ("temperature", temperature, lambda x: x >= 0, "it is 0 (greedy) or positive"),
        ("top_k", top_k, lambda x: x >= 0, "it is 0 (all tokens) or how many to keep"),
        ("top_p", top_p, lambda x: 0 < x <= 1, "it is a probability above 0"),
    ):
        if isinstance(value, (int, float)):
            require(within(value), "sample", f"{name} is {value}", expected, f"Change {name}.")


@partial(jax.jit, static_argnames=("max_new_tokens", "stop_tokens"))
def _sample(
    policy,
    params,
    prompts,
    prompt_lengths,
    key,
    temperature,
    top_k,
    top_p,
    mixture,
    *,
    max_new_tokens,
    stop_tokens,
) -> Samples:
    b, p = prompts.shape
    row_keys = key if key.ndim else jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(b))
    # Once, ahead of the loop: the dtype to compute in, and every block by itself.
    trees = [in_compute_dtype(policy, tree) for tree in [params, *([mixture.params] if mixture else [])]]
    models = [policy.module(tree) for tree in trees]
    blocks = [model.blocks() for model in models]

    # Prefill. Key slots are 0..P-1 for the prompt, padding included, and P+i for the i-th new token.
    slots = jnp.arange(p + max_new_tokens)[None, :]
    in_prompt = slots < jnp.minimum(prompt_lengths, p)[:, None]
    # A new token stands right behind its prompt, whatever lies in between.
    positions = jnp.where(slots < p, slots, prompt_lengths[:, None] + slots - p)
    end = jnp.maximum(prompt_lengths - 1, 0)[:, None, None]
    heads, width = policy.config.num_kv_heads, policy.config.width
    empty = jnp.zeros((b, heads, p + max_new_tokens, width), jnp.dtype(policy.config.dtype))
    read = Places(slots[:, :p], jnp.where(in_prompt[:, :p], 0, -1))
    hidden, caches = [], []
    for model, own in zip(models, blocks, strict=True):
        keys = Places(positions, jnp.where(in_prompt, 0, -1))
        states, cache = model.extend(prompts, read, keys, own, [(empty, empty)] * len(own), 0)
        hidden.append(jnp.take_along_axis(states, end, axis=1)[:, 0])
        caches.append(cache)
    start = _Progress(
        step=jnp.array(0),
        hidden=hidden,
        caches=caches,
        tokens=jnp.zeros((b, max_new_tokens), jnp.int32),
        logps=jnp.zeros((b, max_new_tokens)),
        written=jnp.zeros(b, jnp.int32),
        stopped=jnp.zeros(b, bool),
    )

    def one_token(so_far: _Progress) -> _Progress:
        """Draws a token in every row that has not stopped, and reads it.

        The last one is read in vain: one forward pass of N, for a program of half the size.
        """
        step = so_far.step
        z = logits(policy, trees[0], so_far.hidden[0])
        if mixture is not None:
            z = (1 - mixture.coef) * z + mixture.coef * logits(policy, trees[1], so_far.hidden[1])
        uniforms = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), (2,)))(row_keys)
        token, logp = draw_next(uniforms, z, temperature=temperature, top_k=top_k, top_p=top_p)
        live = ~so_far.stopped
        token, logp = jnp.where(live, token, 0), jnp.where(live, logp, 0.0)
        hit = jnp.zeros(b, bool)
        for stop in stop_tokens:
            hit |= live & (token == stop)

        keys = Places(positions, jnp.where(in_prompt | ((slots >= p) & (slots <= p + step)), 0, -1))
        at = Places((prompt_lengths + step)[:, None], jnp.zeros((b, 1), jnp.int32))
        hidden, caches = [], []
        for model, own, cache in zip(models, blocks, so_far.caches, strict=True):
            states, cache = model.extend(token[:, None], at, keys, own, cache, p + step)
            hidden.append(states[:, 0])
            caches.append(cache)
        return _Progress(
            step=step + 1,
            hidden=hidden,
            caches=caches,
            tokens=jax.lax.dynamic_update_slice_in_dim(so_far.tokens, token[:, None], step, axis=1),
            logps=jax.lax.dynamic_update_slice_in_dim(so_far.logps, logp[:, None], step, axis=1),
            written=so_far.written + live,
            stopped=so_far.stopped | hit,
        )

    done = jax.lax.while_loop(
        lambda so_far: (so_far.step < max_new_tokens) & ~jnp.all(so_far.stopped), one_token, start
    )
    return _join(prompts, prompt_lengths, done)


def _join(prompts, prompt_lengths, done: _Progress) -> Samples:
    """Moves each completion up to the end of its prompt."""
    p, n = prompts.shape[1], done.tokens.shape[1]
    lengths = prompt_lengths + done.written
    place = jnp.arange(p + n)[None, :]
    prompt = jnp.pad(prompts, ((0, 0), (0, n)))
    moved = jnp.take_along_axis(done.tokens, jnp.clip(place - prompt_lengths[:, None], 0, n - 1), axis=1)
    tokens = jnp.where(place < prompt_lengths[:, None], prompt, jnp.where(place < lengths[:, None], moved, 0))
    mask = (jnp.arange(n)[None, :] < done.written[:, None]).astype(jnp.float32)
    return Samples(tokens, prompt_lengths, lengths, done.logps, mask, done.stopped)
