"""Log-probabilities of given tokens, from hidden states, without the [N, V] array in between."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from prefjax.policy.functional import Policy, hidden_states, output_weights

# Entries of [N, chunk] alive at a time, 16 MiB: enough for matrix products at full speed, next to nothing
# beside [N, V].
TILE = 2**22
NARROWEST = 256


def chunk_size(rows: int, vocab_size: int) -> int:
    """How many vocabulary entries to take at a time: about `TILE / rows`, cut so that the pieces are even."""
    pieces = -(-vocab_size // max(TILE // max(rows, 1), NARROWEST))
    return -(-vocab_size // pieces)


def logps_from_hidden(
    hidden: Float[Array, "N D"],
    weights: Float[Array, "V D"],
    targets: Int[Array, " N"],
    *,
    chunk: int | None = None,
) -> Float[Array, " N"]:
    """Token log-probabilities under a linear head.

        log π(yᵢ) = hᵢ·w[yᵢ] - log Σᵥ exp(hᵢ·wᵥ)

    The sum runs over the vocabulary in pieces, forwards with a running maximum, and backwards by making each
    piece's probabilities again. Memory is [N, chunk] in both directions. Pieces of the vocabulary rather than
    of the tokens: the weight gradient is then written once, not added to for every piece, and N stays whole,
    so it may be split over devices.

    Args:
      hidden: h, in the dtype that matrices are to be multiplied in.
      weights: w, one row a token of the vocabulary; cast to the dtype of h.
      targets: y, in 0..V-1.
      chunk: vocabulary entries at a time; chosen from N and V unless given. Static.

    Returns: float32 nats, at most 0. Sums and products accumulate in float32 whatever the inputs are.
    Raises: nothing.
    Source: the running maximum is Milakov and Gimelshein, 2018, alg. 3 (arXiv:1805.02867).
    """
    chunk = chunk or chunk_size(hidden.shape[0], weights.shape[0])
    return _logps(min(chunk, weights.shape[0]), hidden, weights, targets)


def _over_vocabulary(body, carry, vocab_size: int, chunk: int):
    """`carry = body(carry, start, size)` for every piece; the last may be smaller, and is traced apart."""
    whole, rest = divmod(vocab_size, chunk)
    carry = jax.lax.fori_loop(0, whole, lambda i, c: body(c, i * chunk, chunk), carry)
    return body(carry, whole * chunk, rest) if rest else carry


def _piece_logits(hidden, weights, start, size):
    piece = jax.lax.dynamic_slice_in_dim(weights, start, size).astype(hidden.dtype)
    return piece, jnp.einsum("nd,vd->nv", hidden, piece, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logps(chunk, hidden, weights, targets):
    return _logps_forward(chunk, hidden, weights, targets)[0]


def _logps_forward(chunk, hidden, weights, targets):
    def body(carry, start, size):
        highest, total = carry
        _, z = _piece_logits(hidden, weights, start, size)
        higher = jnp.maximum(highest, z.max(axis=-1))
        return higher, total * jnp.exp(highest - higher) + jnp.exp(z - higher[:, None]).sum(axis=-1)

    # Not -inf: it minus itself is nan, should a whole piece be -inf.
    nothing = jnp.full(hidden.shape[0], jnp.finfo(jnp.float32).min), jnp.zeros(hidden.shape[0])
    highest, total = _over_vocabulary(body, nothing, weights.shape[0], chunk)
    normaliser = highest + jnp.log(total)
    target_rows = weights[targets].astype(hidden.dtype)
    target_logits = jnp.einsum("nd,nd->n", hidden, target_rows, preferred_element_type=jnp.float32)
    return target_logits - normaliser, (hidden, weights, targets, normaliser)


def _logps_backward(chunk, saved, cotangent):
    hidden, weights, targets, normaliser = saved

    def body(carry, start, size):
        hidden_grad, weights_grad = carry
        piece, z = _piece_logits(hidden, weights, start, size)
        here = (-cotangent[:, None] * jnp.exp(z - normaliser[:, None])).astype(hidden.dtype)
        hidden_grad += jnp.einsum("nv,vd->nd", here, piece, preferred_element_type=jnp.float32)
        rows = jnp.einsum("nv,nd->vd", here, hidden, preferred_element_type=jnp.float32)
        return hidden_grad, jax.lax.dynamic_update_slice_in_dim(weights_grad, rows, start, axis=0)

    nothing = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(weights.shape, jnp.float32)
    hidden_grad, weights_grad = _over_vocabulary(body, nothing, weights.shape[0], chunk)
    weighted = cotangent[:, None] * hidden.astype(jnp.float32)
    hidden_grad += cotangent[:, None] * weights[targets].astype(jnp.float32)
    weights_grad = weights_grad.at[targets].add(weighted)
    return hidden_grad.astype(hidden.dtype), weights_grad.astype(weights.dtype), None


_logps.defvjp(_logps_forward, _logps_backward)


def completion_logps(
    policy: Policy,
    params: PyTree,
    tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    lengths: Int[Array, " B"],
    *,
    max_completion: int,
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """log π(yᵢ | x, y₍<ᵢ₎) of each completion token. This is the one place that shifts by one.

    The output head sees only the positions that predict a completion token.

    Args:
      policy, params: a language model.
      tokens: prompt, completion (with its end token), padding: [B, T].
      prompt_lengths: tokens of the prompt, at least 1 (a first token has nothing to be predicted from).
      lengths: tokens of prompt and completion together.
      max_completion: C, static. Tokens of a completion beyond it are left out.

    Returns: log-probabilities in nats, float32, [B, C], 0 where there is no token; and the mask, float32, 1
      where there is one: i < lengths - prompt_lengths.
    """
    hidden = hidden_states(policy, params, tokens, lengths)
    b, t, d = hidden.shape
    place = prompt_lengths[:, None] + jnp.arange(max_completion)[None, :]
    mask = (place < lengths[:, None]).astype(jnp.float32)
    before = jnp.take_along_axis(hidden, jnp.clip(place - 1, 0, t - 1)[:, :, None], axis=1)
    targets = jnp.take_along_axis(tokens, jnp.clip(place, 0, t - 1), axis=1)
    logps = logps_from_hidden(before.reshape(-1, d), output_weights(policy, params), targets.reshape(-1))
    return jnp.where(mask > 0, logps.reshape(b, -1), 0.0), mask
