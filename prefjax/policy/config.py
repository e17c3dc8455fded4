"""The shape of a decoder of the Llama family."""

from dataclasses import dataclass

from prefjax.checks import require

DTYPES = ("float32", "bfloat16", "float16")
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
class DecoderConfig:
    """A decoder of the Llama family. The defaults are one that learns within minutes on two CPU cores.

    Attributes:
      num_kv_heads: keys and values are shared by `num_heads / num_kv_heads` query heads each.
      head_dim: width of one head; `hidden_size / num_heads` unless given.
      tie_word_embeddings: the output head is the embedding matrix.
      initializer_range: standard deviation of matrices made at random: by `init`, or as a new score head.
      num_scores: 0 for a language model; k for a linear head of k scores in place of the output head.
      bos_token_id, eos_token_ids, pad_token_id: carried along for whoever generates; no computation here
        reads them.
      dtype: in which matrices are multiplied. Parameters keep their own dtype; softmax, norms, rotations
        and log-probabilities are float32 always.
      remat: keep one activation a block and recompute the rest in the backward pass.
    """

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 1024
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    num_scores: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            require(
                value >= 1, "DecoderConfig", f"{name} is {value}", "it is a positive integer", f"Set {name}."
            )
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
        require(
            self.width >= 2 and self.width % 2 == 0,
            "DecoderConfig",
            f"head_dim is {self.head_dim}",
            "rotary embeddings turn pairs of coordinates, so it is even",
            "Change head_dim.",
        )
        require(
            0 < self.initializer_range < float("inf"),
            "DecoderConfig",
            f"initializer_range is {self.initializer_range}",
            "it is a standard deviation, positive and finite",
            "Change initializer_range.",
        )
        require(
            self.num_scores >= 0,
            "DecoderConfig",
            f"num_scores is {self.num_scores}",
            "it is 0 (a language model) or the number of scores",
            "Change num_scores.",
        )
        require(
            self.dtype in DTYPES,
            "DecoderConfig",
            f"dtype is {self.dtype!r}",
            f"it is one of {', '.join(DTYPES)}",
            "Change dtype.",
        )

    @property
    def width(self) -> int:
        """`head_dim` once it is known to be a number."""
        return self.head_dim or 0
