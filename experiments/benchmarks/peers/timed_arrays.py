"""The arrays that losses are timed on, the same in every process: 65,536 pairs, or 512 sequences of 1,024 tokens."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Size:
    pairs: int = 65536
    sequences: int = 512
    tokens: int = 1024
    choices: int = 16  # of a token, where a loss is given logits
    items: int = 8  # of a list
    group: int = 8


def arrays(size: Size) -> dict[str, np.ndarray]:
    """float32, whole numbers int32. A mask has 1 to all of its tokens."""
    random = np.random.default_rng(0)
    n, s, t, v = size.pairs, size.sequences, size.tokens, size.choices

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    mask = (np.arange(t) < random.integers(1, t + 1, size=(s, 1))).astype(np.float32)
    logps = -np.abs(normal(s, t)) * mask

    def near() -> np.ndarray:
        return (-np.abs(logps + 0.1 * normal(s, t)) * mask).astype(np.float32)

    return {
        "chosen": 3 * normal(n), "rejected": 3 * normal(n),  # log-ratios; rewards
        "chosen_logp": -np.abs(30 * normal(n)) - 0.1, "rejected_logp": -np.abs(30 * normal(n)) - 0.1,
        "chosen_average": -np.abs(normal(n)) - 0.01, "rejected_average": -np.abs(normal(n)) - 0.01,
        "chosen_reference": -np.abs(30 * normal(n)), "rejected_reference": -np.abs(30 * normal(n)),
        "margin": np.abs(normal(n)), "desirable": (random.permutation(n) < n // 2).astype(np.int32),
        "rewards": normal(n // size.group, size.group), "other_rewards": normal(n // size.group, size.group),
        "items": normal(n, size.items), "other_items": normal(n, size.items),
        "best": np.zeros(n, np.int32), "grade": random.integers(size.items, size=n).astype(np.int32),
        "mask": mask, "logps": logps, "behaviour_logps": near(), "reference_logps": near(),
        "sampler_logps": near(), "advantages": normal(s), "entropies": np.abs(normal(s, t)),
        "log_sum_squares": -np.abs(normal(s, t)),
        "values": normal(s, t), "old_values": normal(s, t), "returns": normal(s, t),
        "token_rewards": normal(s, t), "labels": random.integers(2, size=(s, t)).astype(np.int32),
        "logits": normal(s, t, v), "reference_logits": normal(s, t, v),
        "tokens": random.integers(v, size=(s, t)).astype(np.int32),
    }  # fmt: skip
