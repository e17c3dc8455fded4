"""From scores of the steps of a solution to one score of the solution, or to rewards of its steps.

The last axis holds S steps; a mask is 1 where there is one. A solution without steps has no score: nan.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned


def min_step_score(
    scores: Float[Array, "*batch S"], mask: Shaped[Array, "*batch S"]
) -> Float[Array, "*batch"]:
    """A solution is as good as its worst step.

        R = minₜ pₜ

    Args:
      scores: pₜ of each step, probabilities or logits.
      mask: 1 where there is a step; the others may hold anything.

    Returns: a score for each solution.
    Raises: InputError where the shapes differ.
    Range: as wide as the scores; the gradient belongs to the least score, divided among equal ones.
    Relatives: no less than `product_step_score` of probabilities, no more than `mean_step_score`; of one step all
      four are its score.
    Source: Lightman et al., "Let's Verify Step by Step", 2023 (arXiv:2305.20050).
    """
    scores, present = _steps("min_step_score", scores, mask)
    return _or_nan(jnp.min(jnp.where(present, scores, jnp.inf), axis=-1, initial=jnp.inf), present)


def last_step_score(
    scores: Float[Array, "*batch S"], mask: Shaped[Array, "*batch S"]
) -> Float[Array, "*batch"]:
    """A solution is as good as its last step, which has seen all others.

        R = p_T

    Args:
      scores: pₜ of each step, probabilities or logits.
      mask: 1 where there is a step; the others may hold anything.

    Returns: a score for each solution.
    Raises: InputError where the shapes differ.
    Range: as wide as the scores.
    Relatives: the sum of `progress_rewards` and the initial value.
    Source: Snell et al., "Scaling LLM Test-Time Compute Optimally", 2024 (arXiv:2408.03314).
    """
    scores, present = _steps("last_step_score", scores, mask)
    behind = jnp.cumsum(present[..., ::-1], axis=-1)[..., ::-1]
    return _or_nan(jnp.sum(jnp.where(present & (behind == 1), scores, 0.0), axis=-1), present)


def product_step_score(
    scores: Float[Array, "*batch S"], mask: Shaped[Array, "*batch S"]
) -> Float[Array, "*batch"]:
    """A solution is right if every step is.

        R = Πₜ pₜ

    Args:
      scores: pₜ in [0, 1] of each step, the probability that it is right.
      mask: 1 where there is a step; the others may hold anything.

    Returns: a probability for each solution, the lower the more steps it has.
    Raises: InputError where the shapes differ.
    Range: underflows to 0 below 1e-38, say 380 steps of 0.8: the order of long solutions is that of Σₜ log pₜ.
    Relatives: at most `min_step_score`.
    Source: Lightman et al., "Let's Verify Step by Step", 2023 (arXiv:2305.20050).
    """
    scores, present = _steps("product_step_score", scores, mask)
    return _or_nan(jnp.prod(jnp.where(present, scores, 1.0), axis=-1), present)


def mean_step_score(
    scores: Float[Array, "*batch S"], mask: Shaped[Array, "*batch S"]
) -> Float[Array, "*batch"]:
    """A solution is as good as its steps on average.

        R = 1/T Σₜ pₜ

    Args:
      scores: pₜ of each step, probabilities or logits.
      mask: 1 where there is a step; the others may hold anything.

    Returns: a score for each solution.
    Raises: InputError where the shapes differ.
    Range: slope 1/T in each score.
    Relatives: no less than `min_step_score`; of one step it is that step's score.
    Source: Wang et al., "Math-Shepherd", 2023, compares aggregations (arXiv:2312.08935).
    """
    scores, present = _steps("mean_step_score", scores, mask)
    count = jnp.sum(present, axis=-1)
    return _or_nan(jnp.sum(jnp.where(present, scores, 0.0), axis=-1) / jnp.maximum(count, 1), present)


def progress_rewards(
    values: Float[Array, "*batch S"], mask: Shaped[Array, "*batch S"], initial: Float[Array, "*batch"]
) -> Float[Array, "*batch S"]:
    """Each step is paid by how much it has improved the prospects: a sum over steps cannot be padded.

        rₜ = pₜ - pₜ₋₁,   Σₜ rₜ = p_T - p₀

    Args:
      values: pₜ after each step: a process reward, minus a toxicity, minus the entropy of the answer. Steps come
        first, padding after them.
      mask: 1 where there is a step; the others may hold anything.
      initial: p₀ before the first.

    Returns: a reward for each step, 0 where the mask is.
    Raises: InputError where the shapes disagree.
    Range: linear.
    Relatives: potential-based shaping with discount 1, which leaves the best policy as it is. Of minus the
      `answer_entropy` these are the information gains of the steps. The sum is `last_step_score` less the initial
      value.
    Source: Ng, Harada and Russell, "Policy Invariance under Reward Transformations", 1999; sentence by sentence in Wu
      et al., "Fine-Grained Human Feedback", 2023 (arXiv:2306.01693).
    """
    values, present = _steps("progress_rewards", values, mask)
    if jnp.shape(initial) != values.shape[:-1]:
        refuse(
            "progress_rewards", f"initial has shape {jnp.shape(initial)}, values has shape {values.shape}",
            "one initial value for each solution: […] and […, S]", "Index or reshape first.",
        )  # fmt: skip
    (initial,) = aligned("progress_rewards", initial=initial)
    before = jnp.concatenate([initial[..., None], values[..., :-1]], axis=-1)
    return jnp.where(present, values - before, 0.0)


def _steps(function, scores, mask):
    """Scores with 0 where there is none, and where there are some."""
    scores, mask = aligned(function, scores=scores, mask=mask)
    return jnp.where(mask != 0, scores, 0.0), mask != 0


def _or_nan(score, present):
    return jnp.where(jnp.any(present, axis=-1), score, jnp.nan)
