"""What every peer is given: the shape of a decoder, and token ids drawn from a seed. Needs NumPy alone."""

from dataclasses import dataclass

import numpy as np

PAD, BOS, EOS, UNKNOWN, FIRST = 0, 1, 2, 3, 4  # ids; words of the vocabulary begin at FIRST


@dataclass(frozen=True)
class Shape:
    """A Qwen 3 with tied embeddings, 12.1 M parameters at the defaults, and the batches it is timed on."""

    vocab_size: int = 32000
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 1024
    pairs: int = 8  # of a DPO step
    prompt: int = 64  # tokens
    completion: int = 192  # tokens, the end-of-sequence token included
    prompts: int = 16  # generated from at a time
    new_tokens: int = 128  # of each

    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 1024

    @property
    def tokens(self) -> int:
        """Tokens of one DPO step: a prompt and a completion, twice a pair."""
        return 2 * self.pairs * (self.prompt + self.completion)

    @property
    def generated(self) -> int:
        return self.prompts * self.new_tokens

    @property
    def parameters(self) -> int:
        d, h = self.hidden_size, self.head_dim
        attention = 2 * d * h * (self.num_heads + self.num_kv_heads) + 2 * h
        return (
            self.vocab_size * d + d + self.num_layers * (attention + 3 * d * self.intermediate_size + 2 * d)
        )

    @property
    def step_flops(self) -> float:
        """Work of a step by the book: 8 per weight and token, with the head and full attention everywhere."""
        d, h = self.hidden_size, self.head_dim
        weights = self.num_layers * (
            2 * d * h * (self.num_heads + self.num_kv_heads) + 3 * d * self.intermediate_size
        )
        attention = self.num_layers * 2 * self.num_heads * h * (self.prompt + self.completion)
        return 8.0 * (weights + attention + self.vocab_size * d) * self.tokens

    def preferences(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Prompts [B, P], chosen and rejected completions [B, C] of one step; all end in EOS."""
        random = np.random.default_rng((0, step))
        prompts = random.integers(FIRST, self.vocab_size, (self.pairs, self.prompt))
        completions = random.integers(FIRST, self.vocab_size, (2, self.pairs, self.completion))
        completions[:, :, -1] = EOS
        chosen, rejected = completions.astype(np.int32)
        return prompts.astype(np.int32), chosen, rejected

    def beginnings(self) -> np.ndarray:
        """Prompts [B, P] to generate from; each begins with BOS."""
        ids = np.random.default_rng(1).integers(FIRST, self.vocab_size, (self.prompts, self.prompt))
        ids[:, 0] = BOS
        return ids.astype(np.int32)


SMALL = Shape(
    vocab_size=512, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=64,
    pairs=2, prompt=8, completion=8, prompts=2, new_tokens=8, max_position_embeddings=64,
)  # fmt: skip
