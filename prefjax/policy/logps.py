"""Log-probabilities of given tokens, from hidden states, without the [N, V] array in between."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from prefjax.policy.functional import Policy, hidden_states, output_weights
from prefjax.types import Scalar

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
    temperature: Scalar = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> Float[Array, " N"]:
    """Token log-probabilities under a linear head.

        log π(yᵢ) = zᵢ[yᵢ] - log Σᵥ exp(zᵢ[v]),   zᵢ[v] = hᵢ·wᵥ / temperature

    The sum runs over the vocabulary in pieces, forwards with a running maximum, and backwards by making each
    piece's probabilities again. Memory is [N, chunk] in both directions. Pieces of the vocabulary rather than
    of the tokens: the weight gradient is then written once, not added to for every piece, and N stays whole,
    so it may be split over devices.

    Args:
      hidden: h, in the dtype that matrices are to be multiplied in.
      weights: w, one row a token of the vocabulary; cast to the dtype of h.
      targets: y, in 0..V-1.
      temperature: that tokens were sampled at, positive. Not differentiated.
      softcap: c of logits c tanh(h·w / c) (Gemma 2); None: none. Static.
      chunk: vocabulary entries at a time; chosen from N and V unless given. Static.

    Returns: float32 nats, at most 0. Sums and products accumulate in float32 whatever the inputs are.
    Raises: nothing.
    Source: the running maximum is Milakov and Gimelshein, 2018, alg. 3 (arXiv:1805.02867).
    """
    chunk = min(chunk or chunk_size(hidden.shape[0], weights.shape[0]), weights.shape[0])
    return _logps(chunk, softcap, False, hidden, weights, targets, jnp.asarray(temperature, jnp.float32))[0]


def logps_and_entropies_from_hidden(
    hidden: Float[Array, "N D"],
    weights: Float[Array, "V D"],
    targets: Int[Array, " N"],
    *,
    temperature: Scalar = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """`logps_from_hidden`, and from the same pass the entropy of each next-token distribution, in nats.

        H = log Σᵥ exp zᵥ - Σᵥ pᵥ zᵥ

    The entropies are there to be looked at: no gradient flows through them.
    """
    chunk = min(chunk or chunk_size(hidden.shape[0], weights.shape[0]), weights.shape[0])
    logps, entropies = _logps(
        chunk, softcap, True, hidden, weights, targets, jnp.asarray(temperature, jnp.float32)
    )
    return logps, jax.lax.stop_gradient(entropies)


def logps_from_logits(
    logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """log π(y) = z[y] - log Σᵥ exp(z[v]), float32: where all logits of a token exist anyway.

    Two reductions that the compiler fuses; `log_softmax` and a look-up would write [*batch, V] once more.
    """
    z = logits.astype(jnp.float32)
    own = jnp.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
    return own - jax.nn.logsumexp(z, axis=-1)


class _Head(NamedTuple):
    chunk: int
    softcap: float | None
    weights: Float[Array, "V D"]
    temperature: Float[Array, ""]

    def piece(self, hidden, start, size):
        """Weights of some tokens, their logits, and the slope of those in h·w."""
        weights = jax.lax.dynamic_slice_in_dim(self.weights, start, size).astype(hidden.dtype)
        z = jnp.einsum("nd,vd->nv", hidden, weights, preferred_element_type=jnp.float32)
        z, slope = self.bend(z)
        return weights, z, slope

    def bend(self, z):
        if self.softcap is None:
            return z / self.temperature, 1 / self.temperature
        bent = jnp.tanh(z / self.softcap)
        return self.softcap * bent / self.temperature, (1 - bent * bent) / self.temperature

    def over_vocabulary(self, body, carry):
        """`carry = body(carry, start, size)` for every piece; the last may be smaller, and is traced apart."""
        whole, rest = divmod(self.weights.shape[0], self.chunk)
        carry = jax.lax.fori_loop(0, whole, lambda i, c: body(c, i * self.chunk, self.chunk), carry)
        return body(carry, whole * self.chunk, rest) if rest else carry


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _logps(chunk, softcap, entropies, hidden, weights, targets, temperature):
    return _logps_forward(chunk, softcap, entropies, hidden, weights, targets, temperature)[0]


def _logps_forward(chunk, softcap, entropies, hidden, weights, targets, temperature):
    head = _Head(chunk, softcap, weights, temperature)

    def body(carry, start, size):
        highest, total, energy = carry
        _, z, _ = head.piece(hidden, start, size)
        higher = jnp.maximum(highest, z.max(axis=-1))
        old, new = jnp.exp(highest - higher), jnp.exp(z - higher[:, None])
        energy = energy * old + (new * z).sum(axis=-1) if entropies else energy
        return higher, total * old + new.sum(axis=-1), energy

    # Not -inf: it minus itself is nan, should a whole piece be -inf.
    zeros = jnp.zeros(hidden.shape[0])
    nothing = jnp.full(hidden.shape[0], jnp.finfo(jnp.float32).min), zeros, zeros
    highest, total, energy = head.over_vocabulary(body, nothing)
    normaliser = highest + jnp.log(total)
    target_rows = weights[targets].astype(hidden.dtype)
    raw = jnp.einsum("nd,nd->n", hidden, target_rows, preferred_element_type=jnp.float32)
    target_logits, slope = head.bend(raw)
    saved = hidden, weights, targets, temperature, normaliser, slope
    return (target_logits - normaliser, normaliser - energy / total), saved


def _logps_backward(chunk, softcap, entropies, saved, cotangents):
    hidden, weights, targets, temperature, normaliser, target_slope = saved
    cotangent, _ = cotangents
    head = _Head(chunk, softcap, weights, temperature)

    def body(carry, start, size):
        hidden_grad, weights_grad = carry
        piece, z, slope = head.piece(hidden, start, size)
        here = (-cotangent[:, None] * jnp.exp(z - normaliser[:, None]) * slope).astype(hidden.dtype)
        hidden_grad += jnp.einsum("nv,vd->nd", here, piece, preferred_element_type=jnp.float32)
        rows = jnp.einsum("nv,nd->vd", here, hidden, preferred_element_type=jnp.float32)
        return hidden_grad, jax.lax.dynamic_update_slice_in_dim(weights_grad, rows, start, axis=0)

    nothing = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(weights.shape, jnp.float32)
    hidden_grad, weights_grad = head.over_vocabulary(body, nothing)
    pull = (cotangent * target_slope)[:, None]
    hidden_grad += pull * weights[targets].astype(jnp.float32)
    weights_grad = weights_grad.at[targets].add(pull * hidden.astype(jnp.float32))
    return hidden_grad.astype(hidden.dtype), weights_grad.astype(weights.dtype), None, None


_logps.defvjp(_logps_forward, _logps_backward)


class Predictions(NamedTuple):
    """Completion tokens, and the hidden states that predict them.

    Attributes:
      hidden: what was known just before each token.
      targets: the tokens.
      mask: float32, 1 where there is one.
    """

    hidden: Float[Array, "B C D"]
    targets: Int[Array, "B C"]
    mask: Float[Array, "B C"]


def predictions(
    hidden: Float[Array, "B T D"],
    tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    lengths: Int[Array, " B"],
    *,
    max_completion: int,
) -> Predictions:
    """Of right-padded rows, completion token i < C and the hidden state before it. The one place that shifts by one."""
    t = tokens.shape[1]
    place = prompt_lengths[:, None] + jnp.arange(max_completion)[None, :]
    mask = (place < lengths[:, None]).astype(jnp.float32)
    before = jnp.take_along_axis(hidden, jnp.clip(place - 1, 0, t - 1)[:, :, None], axis=1)
    return Predictions(before, jnp.take_along_axis(tokens, jnp.clip(place, 0, t - 1), axis=1), mask)


def predicted_logps(
    policy: Policy, params: PyTree, at: Predictions, *, temperature: Scalar = 1.0
) -> Float[Array, "B C"]:
    """log π of each token, in nats, float32, 0 where there is none."""
    b, c, d = at.hidden.shape
    logps = logps_from_hidden(
        at.hidden.reshape(b * c, d),
        output_weights(policy, params),
        at.targets.reshape(b * c),
        temperature=temperature,
        softcap=policy.config.logit_softcap,
    )
    return jnp.where(at.mask > 0, logps.reshape(b, c), 0.0)


def predicted_logps_and_entropies(
    policy: Policy, params: PyTree, at: Predictions, *, temperature: Scalar = 1.0
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """`predicted_logps`, and the entropy in nats of the distribution of each token, which has no gradient; 0 where
    there is no token."""
    b, c, d = at.hidden.shape
    both = logps_and_entropies_from_hidden(
        at.hidden.reshape(b * c, d),
        output_weights(policy, params),
        at.targets.reshape(b * c),
        temperature=temperature,
        softcap=policy.config.logit_softcap,
    )
    logps, entropies = (jnp.where(at.mask > 0, leaf.reshape(b, c), 0.0) for leaf in both)
    return logps, entropies


def completion_logps(
    policy: Policy,
    params: PyTree,
    tokens: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    lengths: Int[Array, " B"],
    *,
    max_completion: int,
    temperature: Scalar = 1.0,
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    """log π(yᵢ | x, y₍<ᵢ₎) of each completion token.

    The output head sees only the positions that predict a completion token.

    Args:
      policy, params: a language model.
      tokens: prompt, completion (with its end token), padding: [B, T].
      prompt_lengths: tokens of the prompt, at least 1 (a first token has nothing to be predicted from).
      lengths: tokens of prompt and completion together.
      max_completion: C, static. Tokens of a completion beyond it are left out.
      temperature: divides the logits, as when the completion was sampled.

    Returns: log-probabilities in nats, float32, [B, C], 0 where there is no token; and the mask, float32, 1
      where there is one: i < lengths - prompt_lengths.
    """
    hidden = hidden_states(policy, params, tokens, lengths)
    at = predictions(hidden, tokens, prompt_lengths, lengths, max_completion=max_completion)
    return predicted_logps(policy, params, at, temperature=temperature), at.mask
