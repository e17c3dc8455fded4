"""The decoder as a Flax module: RMSNorm, rotary positions, grouped queries, a gated MLP; Llama to Gemma.

Attribute names are those of Hugging Face, so that the path of a parameter is its name in a file, but that all
blocks are one: `model.layers.self_attn.q_proj.weight` is [L, out, in], and in a file L tensors [out, in].
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from prefjax.policy.config import DecoderConfig, LoraConfig, RopeScaling

Cache = tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]]  # the keys and values of one block
Turn = tuple[Float[Array, "#B T half"], Float[Array, "#B T half"]]  # sine and cosine of every rotation
QUERIES = 1024  # rows longer than this are attended to piece by piece, so that scores stay [B, N, QUERIES, S]


class Places(NamedTuple):
    """Where tokens stand, which decides what sees what.

    A query sees a key of its own group, on its own branch or the trunk, at its own position or before:

        group_k = group_q  ∧  branch_k ∈ {0, branch_q}  ∧  position_k ≤ position_q  (∧ position_q - position_k < window)

    Attributes:
      positions: in the token's own sequence, from 0. One row stands for all where rows are alike.
      groups: which of the sequences packed into a row; -1 is none (padding). None: a row is one sequence.
      branches: 0 is the trunk (a prompt), 1, 2, … continue it and do not see each other. None: all trunk.
    """

    positions: Int[Array, "#B T"]
    groups: Int[Array, "#B T"] | None = None
    branches: Int[Array, "#B T"] | None = None


class Kind(NamedTuple):
    """How one block differs from the next; of all blocks together, each leaf is [L]."""

    window: Int[Array, "*L"]  # 0: no window
    local: Bool[Array, "*L"]  # rotates by `local_rope_theta`
    adapted: Float[Array, "*L"]  # 1 where adapters count


def visible(
    queries: Places, keys: Places, window: Int[Array, ""] | int | None = None
) -> Bool[Array, "B T S"]:
    """The rule of `Places` for every query and key. A window of 0 is none."""
    distance = queries.positions[:, :, None] - keys.positions[:, None, :]
    seen = distance >= 0
    if window is not None:
        seen &= (distance < window) | (window == 0)
    if queries.groups is not None and keys.groups is not None:
        seen &= queries.groups[:, :, None] == keys.groups[:, None, :]
    if queries.branches is not None and keys.branches is not None:
        branch = keys.branches[:, None, :]
        seen &= (branch == 0) | (branch == queries.branches[:, :, None])
    return seen


class Linear(nnx.Module):
    """y = x Wᵀ + b, with an adapter also + (α / r)(x Aᵀ) Bᵀ. Parameters are cast to the dtype of x.

    The start of an adapter is A uniform on ±1/√in, as in PEFT, and B = 0: the layer is what it was.
    Source: Hu et al., "LoRA", 2021, section 4.1 (arXiv:2106.09685).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        stddev: float,
        rngs: nnx.Rngs,
        bias: bool = False,
        lora: LoraConfig | None = None,
    ):
        self.weight = nnx.Param(stddev * jax.random.normal(rngs.params(), (features_out, features_in)))
        if bias:
            self.bias = nnx.Param(jnp.zeros(features_out))
        self.lora_scale = None
        if lora is not None:
            self.lora_scale = lora.alpha / lora.rank
            self.lora_A = Linear(features_in, lora.rank, stddev=0.0, rngs=rngs)
            bound = features_in**-0.5
            shape = (lora.rank, features_in)
            self.lora_A.weight.set_value(
                jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
            )
            self.lora_B = Linear(lora.rank, features_out, stddev=0.0, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*batch I"], adapted: Float[Array, ""] | float = 1.0
    ) -> Float[Array, "*batch O"]:
        weight = self.weight.get_value().astype(x.dtype)
        # Flat: of more than two axes XLA writes the weight gradient transposed, which costs more than the product.
        y = jnp.einsum("ni,oi->no", x.reshape(-1, x.shape[-1]), weight).reshape(
            *x.shape[:-1], weight.shape[0]
        )
        if hasattr(self, "bias"):
            bias = self.bias.get_value().astype(x.dtype)
            y = y + bias.reshape((1,) * (y.ndim - 1) + bias.shape)
        if self.lora_scale is not None:
            scale = jnp.asarray(self.lora_scale * adapted, x.dtype)
            y = y + scale * self.lora_B(self.lora_A(x))
        return y


class Embedding(nnx.Module):
    """A row of the table for each token."""

    def __init__(self, vocab_size: int, features: int, *, stddev: float, rngs: nnx.Rngs):
        self.weight = nnx.Param(stddev * jax.random.normal(rngs.params(), (vocab_size, features)))

    def __call__(self, tokens: Int[Array, "B T"], dtype: jnp.dtype) -> Float[Array, "B T D"]:
        return self.weight.get_value()[tokens].astype(dtype)


class RMSNorm(nnx.Module):
    """y = w x / √(mean x² + ε), 1 + w for w with an offset; in float32 (Zhang, Sennrich, 2019, arXiv:1910.07467)."""

    def __init__(self, features: int, config: DecoderConfig):
        self.offset = 1.0 if config.norm_offset else 0.0
        self.weight = nnx.Param(jnp.full(features, 1.0 - self.offset))
        self.eps = config.rms_norm_eps

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        weight = self.weight.get_value().astype(jnp.float32) + self.offset
        return (x32 * scale * weight.reshape((1,) * (x.ndim - 1) + weight.shape)).astype(x.dtype)


def frequencies(width: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """θ^(-2j/H) for j < H/2, in radians a position, float32; stretched as `scaling` says.

    "llama3" leaves short waves alone, divides the frequency of long ones, and goes from one to the other linearly in
    the number of turns that fit into the context of pre-training.
    """
    plain = 1.0 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    fitting = np.float32(scaling.original_max_position_embeddings) * plain / np.float32(2 * math.pi)
    span = np.float32(scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip((fitting - np.float32(scaling.low_freq_factor)) / span, 0, 1)
    return (1 - kept) * plain / np.float32(scaling.factor) + kept * plain


def turns(positions: Int[Array, "#B T"], frequency: np.ndarray) -> Turn:
    """Sines and cosines, float32: in bfloat16 positions above 256 are no longer told apart."""
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequency)[None, None, :]
    return jnp.sin(angles), jnp.cos(angles)


def rotate(x: Float[Array, "B T N H"], turn: Turn) -> Float[Array, "B T N H"]:
    """Rotary positions: coordinates (j, j + H/2) turn by position · frequency j.

    Source: Su et al., "RoFormer", 2021, eq. 34 (arXiv:2104.09864), with the halves paired as Llama does.
    """
    sin, cos = turn[0][:, :, None, :], turn[1][:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    mask: Bool[Array, "#B T S"],
    *,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(c tanh(q kᵀ · scale / c)) v over what the mask allows, in float32. Head n reads key head n // (N / K)."""
    b, t, n, h = queries.shape
    grouped = queries.reshape(b, t, keys.shape[1], -1, h)
    weights = jnp.einsum("btkgh,bksh->bkgts", grouped, keys, preferred_element_type=jnp.float32) * scale
    if softcap is not None:
        weights = softcap * jnp.tanh(weights / softcap)
    # The lowest number, not -inf: a row that may look nowhere is then uniform rather than nan.
    weights = jnp.where(mask[:, None, None], weights, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(weights, axis=-1).astype(values.dtype)
    return jnp.einsum("bkgts,bksh->btkgh", weights, values).reshape(b, t, n, h)


def attend_in_pieces(queries, keys, values, at: Places, seen: Places, window, *, scale, softcap):
    """`attend`, for at most `QUERIES` queries at a time; the backward pass makes each piece again."""
    t = queries.shape[1]
    if t <= QUERIES:
        return attend(queries, keys, values, visible(at, seen, window), scale=scale, softcap=softcap)
    pieces = -(-t // QUERIES)
    size = -(-t // pieces)

    def cut(leaf):  # [B, T, …] → [pieces, B, size, …]; what is added at the end is cut off again below
        room = [(0, 0), (0, pieces * size - t)] + [(0, 0)] * (leaf.ndim - 2)
        return jnp.moveaxis(jnp.pad(leaf, room).reshape(leaf.shape[0], pieces, size, *leaf.shape[2:]), 1, 0)

    @jax.checkpoint
    def piece(queries_and_places):
        some, place = queries_and_places
        return attend(some, keys, values, visible(place, seen, window), scale=scale, softcap=softcap)

    attended = jnp.moveaxis(jax.lax.map(piece, (cut(queries), jax.tree.map(cut, at))), 0, 1)
    return attended.reshape(queries.shape[0], pieces * size, *queries.shape[2:])[:, :t]


class Attention(nnx.Module):
    """Grouped-query attention; with a cache, over everything that the cache holds."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        d, h, stddev = config.hidden_size, config.width, config.initializer_range

        def linear(name: str, i: int, o: int, bias: bool) -> Linear:
            return Linear(i, o, stddev=stddev, rngs=rngs, bias=bias, lora=adapter(config, name))

        self.q_proj = linear("q_proj", d, config.num_heads * h, config.attention_bias)
        self.k_proj = linear("k_proj", d, config.num_kv_heads * h, config.attention_bias)
        self.v_proj = linear("v_proj", d, config.num_kv_heads * h, config.attention_bias)
        self.o_proj = linear("o_proj", config.num_heads * h, d, config.attention_output_bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(h, config), RMSNorm(h, config)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "B T D"],
        at: Places,
        seen: Places,
        turn: Turn,
        kind: Kind,
        cache: Cache | None,
        slot: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        b, t, _ = x.shape
        config, adapted = self.config, kind.adapted
        queries = self.q_proj(x, adapted).reshape(b, t, -1, config.width)
        keys = self.k_proj(x, adapted).reshape(b, t, -1, config.width)
        values = self.v_proj(x, adapted).reshape(b, t, -1, config.width).swapaxes(1, 2)
        if config.qk_norm:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        queries, keys = rotate(queries, turn), rotate(keys, turn).swapaxes(1, 2)
        if cache is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache[0], keys, slot, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(cache[1], values, slot, axis=2)
        attended = attend_in_pieces(
            queries, keys, values, at, seen, kind.window if any(config.windows) else None,
            scale=config.score_scale, softcap=config.attention_softcap,
        )  # fmt: skip
        return self.o_proj(attended.reshape(b, t, -1), adapted), (keys, values)


class MLP(nnx.Module):
    """down(act(gate(x)) · up(x)) (Shazeer, 2020, eq. 6, arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        d, f, stddev = config.hidden_size, config.intermediate_size, config.initializer_range

        def linear(name: str, i: int, o: int) -> Linear:
            return Linear(i, o, stddev=stddev, rngs=rngs, bias=config.mlp_bias, lora=adapter(config, name))

        self.gate_proj, self.up_proj = linear("gate_proj", d, f), linear("up_proj", d, f)
        self.down_proj = linear("down_proj", f, d)
        self.gelu = config.activation == "gelu_tanh"

    def __call__(self, x: Float[Array, "B T D"], adapted: Float[Array, ""] | float) -> Float[Array, "B T D"]:
        gate = self.gate_proj(x, adapted)
        gate = jax.nn.gelu(gate, approximate=True) if self.gelu else jax.nn.silu(gate)
        return self.down_proj(gate * self.up_proj(x, adapted), adapted)


def adapter(config: DecoderConfig, name: str) -> LoraConfig | None:
    """The adapter of the linear layers of that name, if they have one."""
    return config.lora if config.lora is not None and name in config.lora.targets else None


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); Gemma norms once more before each sum."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, config)

        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.self_attn = Attention(config, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)
        self.post_norms = config.post_norms
        if config.post_norms:
            self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(), norm()

    def __call__(
        self,
        x: Float[Array, "B T D"],
        at: Places,
        seen: Places,
        turn: Turn,
        kind: Kind,
        cache: Cache | None = None,
        slot: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        attended, cache = self.self_attn(self.input_layernorm(x), at, seen, turn, kind, cache, slot)
        if self.post_norms:
            x = x + self.post_attention_layernorm(attended)
            mixed = self.mlp(self.pre_feedforward_layernorm(x), kind.adapted)
            return x + self.post_feedforward_layernorm(mixed), cache
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x), kind.adapted), cache


class Stack(nnx.Module):
    """Embedding, blocks, last norm. `layers` is one block whose parameters are those of all, [L, …]."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.embed_tokens = Embedding(
            config.vocab_size, config.hidden_size, stddev=config.initializer_range, rngs=rngs
        )
        self.layers = nnx.vmap(lambda each: Block(config, rngs=each))(rngs.split(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config)


class Decoder(nnx.Module):
    """The stack under a head: none of its own (tied), `lm_head`, or `score`."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config, stddev = config, config.initializer_range
        self.model = Stack(config, rngs=rngs)
        if config.num_scores:
            self.score = Linear(config.hidden_size, config.num_scores, stddev=stddev, rngs=rngs)
        elif not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, stddev=stddev, rngs=rngs)

    def __call__(self, tokens: Int[Array, "B T"], at: Places) -> Float[Array, "B T D"]:
        """Hidden states after the last norm."""
        config, graphdef, stacked = self.config, *nnx.split(self.model.layers)
        turn = self.turns(at)

        def block(x, own):
            params, kind = own
            x, _ = nnx.merge(graphdef, params)(x, at, at, choose(turn, kind), kind)
            return x, None

        if config.remat != "none":
            # Products with weights; not attention scores, which grow with the square of the length.
            dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            kept = dots if config.remat == "dots" else None
            # Inside a loop nothing can be merged with the forward pass anyway; in a row it must be forbidden.
            block = jax.checkpoint(block, policy=kept, prevent_cse=not config.scan_layers)
        unroll = 1 if config.scan_layers else config.num_layers
        x, _ = jax.lax.scan(block, self.embed(tokens), (stacked, self.kinds()), unroll=unroll)
        return self.model.norm(x)

    def extend(
        self,
        tokens: Int[Array, "B T"],
        at: Places,
        seen: Places,
        blocks: list[Block],
        caches: list[Cache],
        slot: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T D"], list[Cache]]:
        """Hidden states of tokens that continue what the caches hold, and the caches with them in.

        Args:
          tokens, at: what to read, and where each stands.
          seen: where the keys in the caches stand, those of `tokens` included.
          blocks: from `blocks()`, called once, ahead of the loop that generates.
          caches: keys and values of what came before, one pair a block; `tokens` go in at `slot`.
          slot: the first place of the caches to write to.
        """
        x, turn, kinds = self.embed(tokens), self.turns(at), self.kinds()
        written = []
        for i, (block, cache) in enumerate(zip(blocks, caches, strict=True)):
            kind = jax.tree.map(lambda leaf, i=i: leaf[i], kinds)
            x, cache = block(x, at, seen, choose(turn, kind), kind, cache, slot)
            written.append(cache)
        return self.model.norm(x), written

    def blocks(self) -> list[Block]:
        """Every block by itself, with its slice of the parameters."""
        graphdef, stacked = nnx.split(self.model.layers)
        return [
            nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
            for i in range(self.config.num_layers)
        ]

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        x = self.model.embed_tokens(tokens, jnp.dtype(self.config.dtype))
        # The root is rounded to the dtype first, as the models were trained.
        return x * jnp.asarray(self.config.hidden_size**0.5, x.dtype) if self.config.scale_embeddings else x

    def turns(self, at: Places) -> tuple[Turn, Turn]:
        """Rotations of blocks that see everything, and of those with a window; one and the same for most models."""
        config = self.config
        far = turns(at.positions, frequencies(config.width, config.rope_theta, config.rope_scaling))
        if config.local_rope_theta is None:
            return far, far
        return far, turns(at.positions, frequencies(config.width, config.local_rope_theta, None))

    def kinds(self) -> Kind:
        config = self.config
        windows = np.array(config.windows or (0,) * config.num_layers, np.int32)
        adapted = np.ones(config.num_layers, np.float32)
        if config.lora is not None and config.lora.layers:
            adapted = np.isin(np.arange(config.num_layers), config.lora.layers).astype(np.float32)
        local = (windows > 0) & (config.local_rope_theta is not None)
        return Kind(jnp.asarray(windows), jnp.asarray(local), jnp.asarray(adapted))


def choose(turn: tuple[Turn, Turn], kind: Kind) -> Turn:
    """The rotations of a block of this kind."""
    far, near = turn
    return far if far is near else jax.tree.map(lambda f, n: jnp.where(kind.local, n, f), far, near)
