"""Rewards of thinking: a model scores how an answer was reached, and is believed as far as the outcome bears it out.

Outcomes and scores are of G samples of one prompt, on the last axis; thoughts are pieces of one sample, K of them on
the last axis.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def trust_weight(
    outcomes: Float[Array, "*batch G"], thinking: Float[Array, "*batch G"], *, threshold: Scalar = 0.5
) -> Float[Array, "*batch"]:
    """How far a judge of thinking is trusted on a prompt: less where it likes wrong answers better than right ones.

        γ = 1 where μ⁺ >= μ⁻, else exp(μ⁺ - μ⁻);   μ± the mean thinking score of right and of wrong answers

    Args:
      outcomes: Rᵒ of each answer, right from the threshold on.
      thinking: Rᵗ in [0, 1], the judge's score of how it was reached.
      threshold: in units of Rᵒ.

    Returns: γ in [1/e, 1]; 1 where all answers are right or all wrong, of which the paper says nothing.
    Raises: InputError where the shapes differ.
    Range: finite; the slope is at most 1.
    Elsewhere: the authors' code leaves out thinking scores where all outcomes are above 0.9 or all below 0.1, and of
      answers with an outcome below 0.2, so that γ < 1 is rare for outcomes of 0 and 1; it logs exp(2(μ⁺ - μ⁻)).
    Source: Fan et al., "SophiaVL-R1", 2025, eq. 3 (arXiv:2505.17018).
    """
    outcomes, thinking = aligned("trust_weight", outcomes=outcomes, thinking=thinking)
    right = outcomes >= threshold

    def mean(of):
        return jnp.sum(jnp.where(of, thinking, 0.0), axis=-1) / jnp.maximum(jnp.sum(of, axis=-1), 1)

    both = jnp.any(right, axis=-1) & jnp.any(~right, axis=-1)
    return jnp.where(both, jnp.exp(jnp.minimum(mean(right) - mean(~right), 0.0)), 1.0)


def trust_grpo_rewards(
    outcomes: Float[Array, "*batch G"],
    thinking: Float[Array, "*batch G"],
    progress: Scalar,
    *,
    alpha: Scalar = 0.3,
    threshold: Scalar = 0.5,
) -> Float[Array, "*batch G"]:
    """Trust-GRPO's reward: the outcome, and a share of the thinking score that fades as training goes on.

        Rᵢ = Rᵒᵢ + γ α e^(-p) Rᵗᵢ

    Args:
      outcomes: Rᵒ of each answer.
      thinking: Rᵗ in [0, 1] of each answer.
      progress: p, steps taken over all steps, from 0 to 1.
      alpha: α, the share at the start.
      threshold: from which outcome on an answer is right, in γ: `trust_weight`.

    Returns: rewards in units of Rᵒ, for `returns.grpo_advantages`.
    Raises: InputError where the shapes differ.
    Range: finite; from Rᵒ to Rᵒ + α.
    Relatives: with α = 0, or equal thinking scores, its advantages are those of the outcome.
    Source: Fan et al., "SophiaVL-R1", 2025, eq. 5 (arXiv:2505.17018).
    """
    outcomes, thinking = aligned("trust_grpo_rewards", outcomes=outcomes, thinking=thinking)
    trust = trust_weight(outcomes, thinking, threshold=threshold)[..., None]
    return outcomes + trust * alpha * jnp.exp(-jnp.asarray(progress, outcomes.dtype)) * thinking


def thought_rewards(
    labels: Shaped[Array, "*batch K"],
    outcome_advantage: Float[Array, "*batch"],
    right: Shaped[Array, "*batch"],
    mask: Shaped[Array, "*batch K"],
    *,
    strength: Scalar,
) -> Float[Array, "*batch K"]:
    """TP-GRPO's rewards of thoughts, which are merged runs of steps with one label.

        right answers: r_c where the thought is correct (c = 1), else -r_c;   wrong ones: -Â where c = 1, else Â
        and Â alone for the last thought, which holds the answer

    The sum from a thought on is `thought_advantages`, for labels that alternate and end with 1 (right) or 0 (wrong).

    Args:
      labels: c of each thought: 1 where it is correct (in a right answer), or not what the wrong answer rests on.
      outcome_advantage: Â, the outcome standardised over the group: `returns.grpo_advantages`.
      right: 1 where the answer is right.
      mask: 1 for thoughts, 0 for padding, which may hold anything.
      strength: r_c = α times the share of right answers in the group.

    Returns: rewards in units of Â, 0 where the mask is. They are not standardised again.
    Raises: InputError where the shapes disagree.
    Range: linear; finite where the arguments are.
    Relatives: `thought_advantages` is the sum from a thought on.
    Source: He et al., "Good Learners Think Their Thinking" (TP-GRPO), 2025 (arXiv:2507.23317); that the last
      thought has the outcome alone is derived, from the paper's propositions 1 and 2.
    """
    labels, mask, outcome, right = _of_thoughts("thought_rewards", labels, outcome_advantage, right, mask)
    sign = 2 * labels - 1
    rewards = jnp.where(right, sign * strength, -sign * outcome)
    remaining = jnp.cumsum((mask != 0)[..., ::-1], axis=-1)[..., ::-1]
    return jnp.where(mask == 0, 0.0, jnp.where(remaining == 1, outcome, rewards))


def thought_advantages(
    labels: Shaped[Array, "*batch K"],
    outcome_advantage: Float[Array, "*batch"],
    right: Shaped[Array, "*batch"],
    mask: Shaped[Array, "*batch K"],
    *,
    strength: Scalar,
) -> Float[Array, "*batch K"]:
    """TP-GRPO's advantage of each thought, which all of its tokens share.

        right answers: Â - (1 - c) r_c;   wrong ones: (1 - c) Â

    Thus a detour in a right answer is discouraged, and nothing in a wrong one is that the answer does not rest on.

    Args:
      labels: c of each thought: 1 where it is correct (in a right answer), or not what the wrong answer rests on.
      outcome_advantage: Â, the outcome standardised over the group: `returns.grpo_advantages`.
      right: 1 where the answer is right.
      mask: 1 for thoughts, 0 for padding, which may hold anything.
      strength: r_c = α times the share of right answers in the group.

    Returns: advantages in units of Â, 0 where the mask is.
    Raises: InputError where the shapes disagree.
    Range: linear; bounded by |Â| + r_c.
    Relatives: with r_c = 0 right answers have GRPO's own advantages. Where all answers are right Â = 0, and
      only detours still teach something.
    Source: He et al., "Good Learners Think Their Thinking" (TP-GRPO), 2025, propositions 1 and 2 (arXiv:2507.23317).
    """
    labels, mask, outcome, right = _of_thoughts("thought_advantages", labels, outcome_advantage, right, mask)
    advantages = jnp.where(right, outcome - (1 - labels) * strength, (1 - labels) * outcome)
    return jnp.where(mask == 0, 0.0, advantages)


def _of_thoughts(function, labels, outcome_advantage, right, mask):
    labels, mask = aligned(function, labels=labels, mask=mask)
    outcome_advantage, right = aligned(function, outcome_advantage=outcome_advantage, right=right)
    if outcome_advantage.shape != labels.shape[:-1]:
        refuse(
            function, f"outcome_advantage has shape {outcome_advantage.shape}, labels has shape {labels.shape}",
            "one outcome for each row of thoughts: […] and […, K]", "Index or reshape first.",
        )  # fmt: skip
    return labels, mask, outcome_advantage[..., None], right[..., None] != 0
