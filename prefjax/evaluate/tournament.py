"""A tournament: completions of several policies at the same prompts, every pair of policies judged."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from prefjax.checks import require

# (prompts, completions, completions) -> P(y ≻ y' | x), one number a row.
TextJudge = Callable[[Sequence[str], Sequence[str], Sequence[str]], Float[np.ndarray, " N"]]


def cross_preferences(
    judge: TextJudge,
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    others: Sequence[Sequence[str]],
) -> Float[np.ndarray, "prompts K L"]:
    """P(yₖ ≻ y'ₗ | x) for every completion of one policy against every completion of another.

    Args:
      judge: of texts.
      prompts: x.
      completions, others: K and L completions of each prompt.

    Returns: [prompts, K, L]; its mean is an unbiased estimate of P(π ≻ π'), without sampling whom to pair.
    Raises: InputError when the judge returns another number of probabilities, nan, or leaves [0, 1].
    """
    require(len(prompts) > 0, "tournament", "no prompt", "at least one", "Give it prompts to judge at.")
    k, n = (_equally_many(texts, len(prompts)) for texts in (completions, others))
    rows = [
        (prompt, mine, theirs)
        for prompt, own, other in zip(prompts, completions, others, strict=True)
        for mine in own
        for theirs in other
    ]
    judged = np.asarray(judge(*map(list, zip(*rows, strict=True))), np.float64)
    require(
        judged.shape == (len(rows),), "judge", f"shape {judged.shape}", f"one probability for each of {len(rows)} rows",
        "A judge maps (prompts, completions, completions) to as many numbers.",
    )  # fmt: skip
    good = (judged >= 0) & (judged <= 1)  # false for nan
    require(
        bool(good.all()), "judge", f"{judged[np.argmin(good)]} for row {int(np.argmin(good))}",
        "probabilities in [0, 1]",
        "Mend the judge.",
    )  # fmt: skip
    return judged.reshape(len(prompts), k, n)


def _equally_many(texts: Sequence[Sequence[str]], prompts: int) -> int:
    counts = [len(answers) for answers in texts]
    require(
        len(counts) == prompts and len(set(counts)) == 1 and counts[0] > 0, "tournament",
        f"completions of {len(counts)} prompts, {min(counts, default=0)} to {max(counts, default=0)} of each",
        f"equally many, and at least one, for each of {prompts} prompts", "Sample every prompt equally often.",
    )  # fmt: skip
    return counts[0]


def tournament(
    judge: TextJudge, prompts: Sequence[str], completions: Mapping[str, Sequence[Sequence[str]]]
) -> dict[tuple[str, str], Float[np.ndarray, " prompts"]]:
    """P(row ≻ column | x) for each prompt and each pair of policies; the other order is one minus it.

    Args:
      completions: by policy, K completions of every prompt (K may differ between policies).
    """
    names = list(completions)
    table: dict[tuple[str, str], Float[np.ndarray, " prompts"]] = {}
    for i, row in enumerate(names):
        for column in names[i + 1 :]:
            preferred = cross_preferences(judge, prompts, completions[row], completions[column]).mean(
                axis=(1, 2)
            )
            table[row, column], table[column, row] = preferred, 1.0 - preferred
    return table
