"""The decoder as a Flax module: RMSNorm, rotary positions, grouped queries, SwiGLU.

Attribute names are those of Hugging Face's Llama, so that the path of a parameter is its name in a file:
`model.layers.0.self_attn.q_proj.weight`. Matrices are [out, in], as there.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from prefjax.policy.config import DecoderConfig

Cache = tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]]  # the keys and values of one block


class Linear(nnx.Module):
    """y = x Wᵀ. The weight is cast to the dtype of x, so float32 parameters can be used in bfloat16."""

    def __init__(self, features_in: int, features_out: int, *, stddev: float, rngs: nnx.Rngs):
        shape = (features_out, features_in)
        self.weight = nnx.Param(stddev * jax.random.normal(rngs.params(), shape))

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        return jnp.einsum("...i,oi->...o", x, self.weight.get_value().astype(x.dtype))


class Embedding(nnx.Module):
    """A row of the table for each token."""

    def __init__(self, vocab_size: int, features: int, *, stddev: float, rngs: nnx.Rngs):
        self.weight = nnx.Param(stddev * jax.random.normal(rngs.params(), (vocab_size, features)))

    def __call__(self, tokens: Int[Array, "B T"], dtype: jnp.dtype) -> Float[Array, "B T D"]:
        return self.weight.get_value()[tokens].astype(dtype)


class RMSNorm(nnx.Module):
    """y = w x / √(mean x² + ε), in float32 (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

    def __init__(self, features: int, eps: float):
        self.weight = nnx.Param(jnp.ones(features))
        self.eps = eps

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        weight = self.weight.get_value().astype(jnp.float32)
        return (x32 * scale * weight[None, None, :]).astype(x.dtype)


def rotate(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"], *, theta: float
) -> Float[Array, "B T N H"]:
    """Rotary positions: coordinates (j, j + H/2) turn by position · theta^(-2j/H).

    In float32 whatever x is: in bfloat16 positions above 256 are no longer told apart.
    Source: Su et al., "RoFormer", 2021, eq. 34 (arXiv:2104.09864), with the halves paired as Llama does.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None, :]
    sin, cos = jnp.sin(angles)[:, :, None, :], jnp.cos(angles)[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    mask: Bool[Array, "#B T S"],
) -> Float[Array, "B T N H"]:
    """softmax(q kᵀ / √H) v over what the mask allows, in float32. Head n reads key head n // (N / K)."""
    b, t, n, h = queries.shape
    grouped = queries.reshape(b, t, keys.shape[1], -1, h)
    weights = jnp.einsum("btkgh,bksh->bkgts", grouped, keys, preferred_element_type=jnp.float32) * h**-0.5
    # The lowest number, not -inf: a row that may look nowhere is then uniform rather than nan.
    weights = jnp.where(mask[:, None, None], weights, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(weights, axis=-1).astype(values.dtype)
    return jnp.einsum("bkgts,bksh->btkgh", weights, values).reshape(b, t, n, h)


class Attention(nnx.Module):
    """Grouped-query attention; with a cache, over everything that the cache holds."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        d, h, stddev = config.hidden_size, config.width, config.initializer_range
        self.q_proj = Linear(d, config.num_heads * h, stddev=stddev, rngs=rngs)
        self.k_proj = Linear(d, config.num_kv_heads * h, stddev=stddev, rngs=rngs)
        self.v_proj = Linear(d, config.num_kv_heads * h, stddev=stddev, rngs=rngs)
        self.o_proj = Linear(config.num_heads * h, d, stddev=stddev, rngs=rngs)
        self.width, self.theta = h, config.rope_theta

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "#B T S"],
        cache: Cache | None,
        slot: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        b, t, _ = x.shape
        queries = rotate(self.q_proj(x).reshape(b, t, -1, self.width), positions, theta=self.theta)
        keys = rotate(self.k_proj(x).reshape(b, t, -1, self.width), positions, theta=self.theta).swapaxes(
            1, 2
        )
        values = self.v_proj(x).reshape(b, t, -1, self.width).swapaxes(1, 2)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache[0], keys, slot, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(cache[1], values, slot, axis=2)
        return self.o_proj(attend(queries, keys, values, mask).reshape(b, t, -1)), (keys, values)


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)) (Shazeer, 2020, eq. 6, arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        d, f, stddev = config.hidden_size, config.intermediate_size, config.initializer_range
        self.gate_proj = Linear(d, f, stddev=stddev, rngs=rngs)
        self.up_proj = Linear(d, f, stddev=stddev, rngs=rngs)
        self.down_proj = Linear(f, d, stddev=stddev, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "#B T S"],
        cache: Cache | None,
        slot: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        attended, cache = self.self_attn(self.input_layernorm(x), positions, mask, cache, slot)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Stack(nnx.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.embed_tokens = Embedding(
            config.vocab_size, config.hidden_size, stddev=config.initializer_range, rngs=rngs
        )
        # Named by strings, since a checkpoint gives integer keys back as strings.
        self.layers = nnx.Dict({str(i): Block(config, rngs=rngs) for i in range(config.num_layers)})
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nnx.Module):
    """The stack under a head: none of its own (tied), `lm_head`, or `score`."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config, stddev = config, config.initializer_range
        self.model = Stack(config, rngs=rngs)
        if config.num_scores:
            self.score = Linear(config.hidden_size, config.num_scores, stddev=stddev, rngs=rngs)
        elif not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, stddev=stddev, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "#B T S"],
        caches: list[Cache] | None = None,
        slot: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], list[Cache]]:
        """Hidden states after the last norm, and the keys and values of every block.

        Args:
          tokens: what to read.
          positions: where each token stands in its own sequence, from 0.
          mask: which of the S keys each query may see. S is T without caches, else the caches' length.
          caches: keys and values of what came before, one pair a block; `tokens` go in at `slot`.
          slot: the first place of the caches to write to.
        """
        x = self.model.embed_tokens(tokens, jnp.dtype(self.config.dtype))
        written = []
        for i in range(self.config.num_layers):
            block = self.model.layers[str(i)]
            step = jax.checkpoint(block.__call__) if self.config.remat and caches is None else block
            x, cache = step(x, positions, mask, caches[i] if caches else None, slot)
            written.append(cache)
        return self.model.norm(x), written
