"""The shape of a decoder: what Llama, Mistral, Qwen and Gemma have in common, and where they differ."""

import math
from dataclasses import dataclass
from typing import Literal

from prefjax.checks import require

DTYPES = ("float32", "bfloat16", "float16")
REMATS = ("none", "dots", "block")
Family = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"]
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than those of pre-training.

    Attributes:
      kind: "linear" divides every frequency by `factor`; "llama3" only those whose wavelength is long, with a
        smooth passage between the two.
      low_freq_factor, high_freq_factor, original_max_position_embeddings: of "llama3".
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: y = x Wᵀ + (alpha / rank) (x Aᵀ) Bᵀ.

    Attributes:
      rank: r, the width between A [r, in] and B [out, r].
      alpha: the update is scaled by alpha / rank.
      targets: which linear layers of a block have one.
      layers: which blocks; all unless given.
    """

    rank: int
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder. The defaults are a Llama that learns within minutes on two CPU cores.

    Attributes:
      family: whose file format it has, and whose computation where no other field says it.
      num_kv_heads: keys and values are shared by `num_heads / num_kv_heads` query heads each.
      head_dim: width of one head; `hidden_size / num_heads` unless given.
      rope_theta, rope_scaling: of rotary positions, in blocks that see everything.
      local_rope_theta: of blocks with a window (Gemma 3), never scaled; `rope_theta` and its scaling unless given.
      windows: one number a block: how many tokens it sees back, itself included; 0 is all. Empty: all see all.
      attention_bias, attention_output_bias, mlp_bias: whether linear layers have one (Qwen 2: the first alone).
      qk_norm: an RMSNorm over each query and key head before rotation (Qwen 3, Gemma 3).
      activation: of the gate in the MLP.
      attention_scale: multiplies q·k; `head_dim^-1/2` unless given.
      attention_softcap, logit_softcap: c tanh(z / c) of attention scores, of output logits; None: none.
      norm_offset: norms multiply by 1 + w (Gemma) instead of w.
      post_norms: a norm also behind attention and MLP (Gemma).
      scale_embeddings: embeddings are multiplied by √hidden_size (Gemma).
      tie_word_embeddings: the output head is the embedding matrix.
      initializer_range: standard deviation of matrices made at random: by `init`, or as a new score head.
      num_scores: 0 for a language model; k for a linear head of k scores in place of the output head.
      bos_token_id, eos_token_ids, pad_token_id: carried along for whoever generates; no computation here
        reads them.
      lora: adapters on chosen linear layers; None: none.
      dtype: in which matrices are multiplied. Parameters keep their own dtype; softmax, norms, rotations
        and log-probabilities are float32 always.
      remat: what the backward pass of a block makes again: "none", "dots" (all but products with weights), "block"
        (everything).
      scan_layers: one block is compiled and looped over, rather than all of them in a row: compiles faster and
        needs less memory to do so, runs a little slower.
    """

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int | None = None
    family: Family = "llama"
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    windows: tuple[int, ...] = ()
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    norm_offset: bool = False
    post_norms: bool = False
    scale_embeddings: bool = False
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    num_scores: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    lora: LoraConfig | None = None
    dtype: str = "float32"
    remat: Literal["none", "dots", "block"] = "none"
    scan_layers: bool = True

    def __post_init__(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            _require(value >= 1, name, value, "it is a positive integer")
        if self.head_dim is None:
            require(
                self.hidden_size % self.num_heads == 0,
                "DecoderConfig",
                f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}",
                "one head is hidden_size / num_heads wide",
                "Give head_dim.",
            )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        require(
            self.num_heads % self.num_kv_heads == 0,
            "DecoderConfig",
            f"num_heads is {self.num_heads}, num_kv_heads {self.num_kv_heads}",
            "query heads share key heads evenly, so the first is a multiple of the second",
            "Change either.",
        )
        even = self.width >= 2 and self.width % 2 == 0
        _require(
            even, "head_dim", self.head_dim, "rotary embeddings turn pairs of coordinates, so it is even"
        )
        good = 0 < self.initializer_range < float("inf")
        _require(good, "initializer_range", self.initializer_range, "it is a positive standard deviation")
        _require(
            self.num_scores >= 0, "num_scores", self.num_scores, "0 (a language model) or how many scores"
        )
        _require(self.dtype in DTYPES, "dtype", repr(self.dtype), f"one of {', '.join(DTYPES)}")
        _require(self.remat in REMATS, "remat", repr(self.remat), f"one of {', '.join(REMATS)}")
        good = len(self.windows) in (0, self.num_layers) and all(w >= 0 for w in self.windows)
        _require(
            good, "windows", self.windows, f"a number, 0 or more, for each of the {self.num_layers} blocks"
        )
        for name in ("attention_softcap", "logit_softcap"):
            value = getattr(self, name)
            good = value is None or (math.isfinite(value) and value > 0)
            _require(good, name, value, "a positive number, or None")
        if self.lora is not None:
            _require(self.lora.rank >= 1, "lora.rank", self.lora.rank, "1 or more")
            good = all(0 <= layer < self.num_layers for layer in self.lora.layers)
            _require(good, "lora.layers", self.lora.layers, f"blocks 0 to {self.num_layers - 1}")

    @property
    def width(self) -> int:
        """`head_dim` once it is known to be a number."""
        return self.head_dim or 0

    @property
    def score_scale(self) -> float:
        """What multiplies q·k."""
        return self.width**-0.5 if self.attention_scale is None else self.attention_scale


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    require(condition, "DecoderConfig", f"{name} is {value}", expected, f"Change {name}.")
