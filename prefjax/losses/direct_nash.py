"""Direct Nash optimisation: a step of self-play fitted by logistic regression on pairs of win rates.

One iteration asks for π₀ exp(r/β), where π₀ is the last iterate and r(x, y) how often y wins against it. All of it
can be prepared beforehand: samples, judgements, pairs; what is left is a loss on pairs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from prefjax.checks import refuse
from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import logistic_cross_entropy
from prefjax.types import Scalar


def dno_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_win_rate: Float[Array, "*batch"],
    rejected_win_rate: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Direct Nash optimisation by regression: the policy's margin is fitted to the difference of two win rates.

        loss = -q log σ(z) - (1 - q) log σ(-z),   z = β(ρ⁺ - ρ⁻),   q = σ(r⁺ - r⁻),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of one completion, summed over its tokens, in nats; π₀ is the last iterate.
      rejected_logratio: ρ⁻ of another one. (Exchanging the two with their win rates changes nothing.)
      chosen_win_rate: r⁺ in [0, 1], how often it wins against samples of π₀; see `sample_win_rates`. Held fixed.
      rejected_win_rate: r⁻ of the other one.
      beta: β > 0, in units of win rate per nat: the paper's η. Large is a small step.

    Returns: a loss in nats for each pair; log 2 where π = π₀, and about that: with win rates in [0, 1] q is between
      0.27 and 0.73.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope β|q - σ(z)|, at most β.
    Optimum: π₀ exp(r/β), whatever distribution the pairs come from, as long as it reaches every completion: that
      is the policy π with the largest P(π ≻ π₀) - β KL(π‖π₀).
    Relatives: with q = 1 `dpo_loss`, which is `dno_prct_loss`. For small differences the target is
      q = 1/2 + (r⁺ - r⁻)/4 and the loss is a squared one, as `sppo_loss` is. With log-ratios against the mixture
      π₀^(1-c) μ^c (unnormalised will do) it is the regularised form, c = τ/η in the paper.
    Source: Rosset et al., "Direct Nash Optimization", 2024, eq. 11 and algorithm 1 (arXiv:2404.03715).
    """
    chosen_logratio, rejected_logratio, chosen_win_rate, rejected_win_rate = aligned(
        "dno_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_win_rate=chosen_win_rate,
        rejected_win_rate=rejected_win_rate,
    )
    margin = jax.lax.stop_gradient(chosen_win_rate - rejected_win_rate)
    z = beta * (chosen_logratio - rejected_logratio)
    return logistic_cross_entropy(z, wrong=jax.nn.sigmoid(-margin))


def dno_prct_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Direct Nash optimisation as it is practised: DPO against the last iterate, on pairs far enough apart.

        loss = -log σ(β(ρ⁺ - ρ⁻)),   ρ = log π(y|x) - log π₀(y|x),   π₀ the last iterate

    What makes the method are the pairs: `dno_prct_pairs` chooses them.

    Args:
      chosen_logratio: ρ⁺ of the better completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the worse one.
      beta: β > 0, the paper's η; 0.1 or 0.05 there.

    Returns: a loss in nats for each pair; log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: none: pairs are never turned round, and their margin drifts; one epoch per iteration stops it.
    Relatives: `dpo_loss`; `dno_loss` with its target q set to 1, which is why β should be larger than there.
    Source: Rosset et al., "Direct Nash Optimization", 2024, eq. 13 and algorithm 2 (arXiv:2404.03715).
    """
    chosen_logratio, rejected_logratio = aligned(
        "dno_prct_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return dpo_loss(chosen_logratio, rejected_logratio, beta=beta)


def sample_win_rates(
    preference: Float[Array, "*batch K K"], mask: Shaped[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """How often each of K completions of one prompt wins against the others.

        rᵢ = Σ_{j ≠ i} mⱼ P(yᵢ ≻ yⱼ | x) / Σ_{j ≠ i} mⱼ

    Args:
      preference: P(yᵢ ≻ yⱼ | x) of a judge, 0 or 1 or in between; the diagonal may hold anything.
      mask: 1 for a completion, 0 for an empty place.

    Returns: r for each completion, without a gradient; 1/2 where there is nothing to compare with, and 0 in empty
      places.
    Raises: InputError where the shapes disagree.
    Range: everywhere.
    Relatives: what `dno_loss` and `sppo_loss` regress on. SPPO counts a completion against itself too, as 1/2.
    Source: Rosset et al., "Direct Nash Optimization", 2024, section 4 (arXiv:2404.03715).
    """
    if jnp.shape(preference) != (*jnp.shape(mask), *jnp.shape(mask)[-1:]):
        refuse(
            "sample_win_rates", f"preference has shape {jnp.shape(preference)}, mask has shape {jnp.shape(mask)}",
            "[..., K, K] and [..., K]", "Row i, column j is how likely completion i beats completion j.",
        )  # fmt: skip
    (preference,) = aligned("sample_win_rates", preference=preference)
    present = mask != 0
    others = present[..., None, :] & _off_diagonal(preference.shape)
    number = jnp.sum(others, axis=-1)
    wins = jnp.sum(jnp.where(others, preference, 0.0), axis=-1)
    rate = jnp.where(number == 0, 0.5, wins / jnp.maximum(number, 1))
    return jax.lax.stop_gradient(jnp.where(present, rate, jnp.zeros_like(rate)))


def dno_prct_pairs(
    scores: Float[Array, "*batch K"],
    teacher: Shaped[Array, "*batch K"],
    mask: Shaped[Array, "*batch K"],
    *,
    min_score: Scalar = 5.0,
    teacher_margin: Scalar = 2.0,
    student_margin: Scalar = 1.0,
) -> Float[Array, "*batch K K"]:
    """The pairs that DNO-Prct trains on: the chosen one is good, and better by a margin.

        pairᵢⱼ = mᵢ mⱼ [i ≠ j] [sᵢ >= s_min] [sᵢ - sⱼ >= δᵢ],   δ = 2 of the teacher's completions, 1 of the policy's

    Teacher over student, student over teacher, student over student: all are admitted.

    Args:
      scores: s of K completions of one prompt, on the judge's scale (the paper's has 6 points), all judged together.
      teacher: 1 for a completion of the teacher, 0 for one of the policy.
      mask: 1 for a completion, 0 for an empty place.
      min_score: s_min.
      teacher_margin: δ where the teacher's completion is chosen.
      student_margin: δ where the policy's own is.

    Returns: 1 where completion i is to be chosen over completion j, else 0, without a gradient.
      `jnp.argwhere(…, size=…, fill_value=…)` makes a batch of it.
    Raises: InputError where the shapes differ.
    Range: everywhere.
    Elsewhere: with `student_margin=inf` only the teacher is ever chosen, the paper's DNO-Restrictive; with
      `teacher_margin=-inf` and without a minimum, always: SPIN.
    Source: Rosset et al., "Direct Nash Optimization", 2024, section 5.1 (arXiv:2404.03715).
    """
    scores, teacher, mask = aligned("dno_prct_pairs", scores=scores, teacher=teacher, mask=mask)
    margin = jnp.where(teacher != 0, teacher_margin, student_margin)[..., None]
    better = (scores[..., None] - scores[..., None, :] >= margin) & (scores >= min_score)[..., None]
    present = (mask != 0)[..., None] & (mask != 0)[..., None, :]
    # With a margin of 0 a completion would beat itself.
    pairs = better & present & _off_diagonal(better.shape)
    return jax.lax.stop_gradient(pairs.astype(scores.dtype))


def _off_diagonal(shape: tuple[int, ...]) -> Bool[Array, "..."]:
    row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - axis) for axis in (2, 1))
    return row != column
