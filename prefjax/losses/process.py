"""Losses of judges of single steps: a score where each step of a solution ends, and whether it was right."""

from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import logistic_cross_entropy


def process_reward_loss(
    scores: Float[Array, "*batch"], labels: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Cross-entropy of a process reward model with one number a step.

        loss = -y log σ(s) - (1 - y) log(1 - σ(s))

    Args:
      scores: s, the logit that a step is right, read where the step ends: [..., S].
      labels: y: 1 right, 0 wrong, or in between: the fraction of continuations that reached the right answer.

    Returns: a loss in nats for each step; log 2 at s = 0. The average is the caller's: every step once
      (`Weighted.tokens`) or every solution once (`Weighted.sequences`).
    Raises: InputError where the shapes differ.
    Range: slope at most 1; scores of ±1e4 are fine.
    Optimum: σ(s) = y, where the loss is the entropy of y: the probability that the step is right, or that a
      continuation from it reaches the right answer.
    Relatives: `bradley_terry_loss` of s against a reward of 0, with 1 - y for its smoothing;
      `two_class_process_reward_loss` with s = s₁ - s₀. `prefjax.rewards` has what makes one score of a solution's
      steps: `min_step_score`, `product_step_score`, `last_step_score`, `mean_step_score`.
    Elsewhere: TRL's PRMTrainer has two numbers a step, and every step counts once.
    Source: Lightman et al., "Let's Verify Step by Step", 2023 (arXiv:2305.20050). Soft labels: Wang et al.,
      "Math-Shepherd", 2023, eq. 2 (arXiv:2312.08935).
    """
    scores, labels = aligned("process_reward_loss", scores=scores, labels=labels)
    return logistic_cross_entropy(scores, wrong=1 - labels)


def two_class_process_reward_loss(
    scores: Float[Array, "*batch 2"], labels: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Cross-entropy of a process reward model with two numbers a step, as TRL's is.

        loss = -y log p - (1 - y) log(1 - p),   p = softmax(s)₁ = σ(s₁ - s₀)

    Args:
      scores: s₀ for "wrong" and s₁ for "right", read where the step ends: [..., S, 2].
      labels: y: 1 right, 0 wrong, or in between.

    Returns: a loss in nats for each step; log 2 at s₀ = s₁.
    Raises: InputError where the shapes disagree.
    Range: slope at most 1 in each score; scores of ±1e4 are fine.
    Optimum: σ(s₁ - s₀) = y; the sum of the two scores is not identified.
    Relatives: `process_reward_loss` of s₁ - s₀.
    Elsewhere: TRL reads the label where a step's separator stands and averages over all steps of a batch; a row cut at
      its end loses its last steps.
    Source: TRL's PRMTrainer, a token classifier of two labels; the identity is derived.
    """
    if scores.shape[-1:] != (2,):
        refuse(
            "two_class_process_reward_loss", f"scores have shape {scores.shape}", "the last axis is (wrong, right)",
            "Of one number a step: process_reward_loss.",
        )  # fmt: skip
    # Widened before they are subtracted.
    (scores,) = aligned("two_class_process_reward_loss", scores=scores)
    logit, labels = aligned(
        "two_class_process_reward_loss", scores=scores[..., 1] - scores[..., 0], labels=labels
    )
    return process_reward_loss(logit, labels)
