"""The distribution that a next token is drawn from: temperature, top-k, top-p, and an exact draw."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from prefjax.types import Scalar


def next_token_logits(
    logits: Float[Array, "B V"], *, temperature: Scalar = 1.0, top_k: Scalar | int = 0, top_p: Scalar = 1.0
) -> Float[Array, "B V"]:
    """Logits of the distribution to draw from: temperature, then top-k, then top-p; -inf is never drawn.

    Every number is traced: a sweep compiles once, and a filter that is off is skipped as the program runs.

    Args:
      logits: of the model.
      temperature: divides the logits. 0 is greedy: all probability on the likeliest token, the first of
        several.
      top_k: keep the k likeliest tokens; 0, or V and more, keeps all. Tokens tied with the k-th stay.
      top_p: then keep the fewest likeliest tokens that together have probability top_p or more, among those
        kept so far; 1 keeps all. Ties stay here too, and so does the likeliest token.

    Returns: [B, V], not normalised.
    Raises: nothing; the numbers are checked where they are read.
    Source: top-k, Fan et al., 2018 (arXiv:1805.04833); top-p, Holtzman et al., 2020 (arXiv:1904.09751).
    """

    def greedy(z):
        likeliest = _argmax(z)[:, None] == jnp.arange(z.shape[-1])[None, :]
        return jnp.where(likeliest, 0.0, -jnp.inf)

    def warm(z):
        z = (z - z.max(axis=-1, keepdims=True)) / jnp.where(temperature > 0, temperature, 1.0)
        z = jax.lax.cond((top_k > 0) & (top_k < z.shape[-1]), lambda z: _top_k(z, top_k), lambda z: z, z)
        return jax.lax.cond(top_p < 1, lambda z: _top_p(z, top_p), lambda z: z, z)

    temperature, top_k, top_p = jnp.asarray(temperature), jnp.asarray(top_k), jnp.asarray(top_p)
    return jax.lax.cond(temperature > 0, warm, greedy, logits.astype(jnp.float32))


def draw_next(
    uniforms: Float[Array, "B 2"],
    logits: Float[Array, "B V"],
    *,
    temperature: Scalar = 1.0,
    top_k: Scalar | int = 0,
    top_p: Scalar = 1.0,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """`draw` from `next_token_logits`, which for temperature 0 is no more than an argmax."""

    def greedy(z):
        return _argmax(z), jnp.zeros(z.shape[0])

    def warm(z):
        return draw(uniforms, next_token_logits(z, temperature=temperature, top_k=top_k, top_p=top_p))

    return jax.lax.cond(jnp.asarray(temperature) > 0, warm, greedy, logits.astype(jnp.float32))


def draw(
    uniforms: Float[Array, "B 2"], logits: Float[Array, "B V"]
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """One token of each row by its inverse distribution function, and the token's log-probability.

    In two steps, a block of the vocabulary and then a token within it, each with a uniform number of its own:
    two numbers a row rather than the V of the Gumbel trick, and no [B, V] running sum. A token of
    probability 0 is never drawn.

    Args:
      uniforms: independent, in [0, 1).
      logits: of the distribution, not necessarily normalised; -inf has probability 0.

    Returns: tokens, int32, and their log-probabilities under softmax(logits).
    """
    highest = logits.max(axis=-1, keepdims=True)
    blocks = _blocks(jnp.exp(logits - highest), fill=0.0)
    which, total = _inverse(uniforms[:, 0], blocks.sum(axis=-1))
    within, _ = _inverse(uniforms[:, 1], _block(blocks, which))
    tokens = which * blocks.shape[-1] + within
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return tokens, chosen - highest[:, 0] - jnp.log(total)


def _blocks(z: Float[Array, "B V"], *, fill: float) -> Float[Array, "B M L"]:
    """The vocabulary in blocks of about √V."""
    b, v = z.shape
    length = 1 << (max(v - 1, 1).bit_length() // 2)
    return jnp.pad(z, ((0, 0), (0, -v % length)), constant_values=fill).reshape(b, -1, length)


def _block(blocks: Float[Array, "B M L"], which: Int[Array, " B"]) -> Float[Array, "B L"]:
    return jnp.take_along_axis(blocks, which[:, None, None], axis=1)[:, 0]


def _argmax(z: Float[Array, "B V"]) -> Int[Array, " B"]:
    """The first index of the maximum. In two steps: on a CPU XLA's argmax is a scalar loop, max is not."""
    blocks = _blocks(z, fill=-jnp.inf)
    which = jnp.argmax(blocks.max(axis=-1), axis=-1)
    within = jnp.argmax(_block(blocks, which), axis=-1)
    return (which * blocks.shape[-1] + within).astype(jnp.int32)


def _inverse(
    uniform: Float[Array, " B"], masses: Float[Array, "B M"]
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """The first index, of positive mass, whose running sum exceeds uniform · total; and the total."""
    running = jnp.cumsum(masses, axis=-1)
    total = running[:, -1]
    # A running sum may lose its order, and the product its strictness, to the last bit: hence `positive`
    # here, and the last positive index where none is left.
    positive = masses > 0
    beyond = positive & (running > (uniform * total)[:, None])
    last = masses.shape[-1] - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
    index = jnp.where(beyond.any(axis=-1), jnp.argmax(beyond, axis=-1), last)
    return index.astype(jnp.int32), total


def _top_k(z: Float[Array, "B V"], k: Scalar | int) -> Float[Array, "B V"]:
    return _keep(z, jnp.ones_like(z), jnp.asarray(k, jnp.float32))


def _top_p(z: Float[Array, "B V"], p: Scalar) -> Float[Array, "B V"]:
    # Positive, so that the likeliest token always stays.
    return _keep(z, jax.nn.softmax(z, axis=-1), jnp.maximum(p, jnp.finfo(jnp.float32).tiny))


def _keep(
    z: Float[Array, "B V"], weights: Float[Array, "B V"], need: Float[Array, ""]
) -> Float[Array, "B V"]:
    """Keeps z ≥ t, for the highest t such that Σ weights[z ≥ t] ≥ need.

    Found bit by bit, 32 sums over the vocabulary: no sort, and `need` may be traced.
    """
    order = _ordered_bits(z)

    def bit(i, threshold):
        higher = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        enough = jnp.sum(jnp.where(order >= higher, weights, 0.0), axis=-1, keepdims=True) >= need
        return jnp.where(enough, higher, threshold)

    threshold = jax.lax.fori_loop(0, 32, bit, jnp.zeros((z.shape[0], 1), jnp.uint32))
    return jnp.where(order >= threshold, z, -jnp.inf)


def _ordered_bits(z: Float[Array, "B V"]) -> UInt32[Array, "B V"]:
    """Integers in the order of the floats: the sign bit flipped, and all the others of a negative number."""
    bits = jax.lax.bitcast_convert_type(z, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
