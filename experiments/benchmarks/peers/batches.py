"""The random batches that everybody is given: log-probabilities, masks, advantages, scores, in float64."""

import numpy as np

SEQUENCES, TOKENS, VOCABULARY, GROUP, ITEMS = 8, 6, 5, 4, 5
FAR = 10  # every tenth batch is far from its reference, and from the policy that sampled


def draw(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` batches, stacked along a first axis; below are the shapes of one.

    [S, T]: logps, reference_logps, behaviour_logps, sampler_logps (0 where the mask is 0), mask (1 to T tokens),
    values, old_values, returns, token_advantages, token_rewards (0 outside the mask), entropies, tokens (ids).
    Pairs are the first half of S, chosen, and the second, rejected.
    [S]: advantages, desirable (half of them), scores, kl_logratio (of mismatched completions), group_rewards.
    [S/2]: margin, wins, preference.   [S, T, V]: logits, reference_logits.   [S, T]: labels (0 or 1).
    [S, K]: items, other_items.   [S/G]: greedy_rewards, of the groups of G that S is in `group_rewards`.
    """
    random = np.random.default_rng(seed)
    s, t, half = SEQUENCES, TOKENS, SEQUENCES // 2
    far = (np.arange(count) % FAR == FAR - 1)[:, None, None]

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=(count, *shape))

    lengths = random.integers(1, t + 1, size=(count, s, 1))
    mask = (np.arange(t) < lengths).astype(np.float64)
    logps = -np.abs(normal(s, t)) * np.where(far, 10.0, 1.5)

    def near(width: float) -> np.ndarray:
        return -np.abs(logps + normal(s, t) * width * np.where(far, 3.0, 1.0)) * mask

    liked = np.argsort(random.random((count, s)), axis=-1) < half
    whole = {
        "logps": logps * mask, "reference_logps": near(0.7), "behaviour_logps": near(0.3),
        "sampler_logps": near(0.3), "mask": mask, "values": normal(s, t) * mask,
        "old_values": normal(s, t) * mask, "returns": normal(s, t) * mask,
        "token_advantages": normal(s, t), "token_rewards": normal(s, t) * mask,
        "entropies": np.abs(normal(s, t)) * mask, "advantages": normal(s), "desirable": liked.astype(np.float64),
        "scores": normal(s), "kl_logratio": normal(s), "group_rewards": normal(s), "greedy_rewards": normal(s // GROUP),
        "margin": np.abs(normal(half)), "wins": (normal(half) > 0).astype(np.float64),
        "preference": random.random((count, half)), "logits": 2 * normal(s, t, VOCABULARY),
        "reference_logits": 2 * normal(s, t, VOCABULARY), "items": normal(s, ITEMS),
        "other_items": normal(s, ITEMS),
    }  # fmt: skip
    whole["tokens"] = random.integers(VOCABULARY, size=(count, s, t))
    whole["labels"] = random.integers(2, size=(count, s, t))
    return whole
