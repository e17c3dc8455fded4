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
    k, n = len(completions[0]), len(others[0])
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
