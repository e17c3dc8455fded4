"""The one number that makes scores into honest probabilities: a temperature, fitted to what was chosen."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def calibrated_softmax(scores: Float[Array, "*batch A"], *, temperature: Scalar) -> Float[Array, "*batch A"]:
    """Probabilities of answers, from scores and a temperature.

        p(y) = e^(u(y)/τ) / Σ e^(u/τ)

    Args:
      scores: u of A answers to one question; a reward of each, or (r - r', 0) of a pair.
      temperature: τ > 0, in units of score: from `fitted_temperature` on questions that were held out.

    Returns: probabilities over the last axis.
    Raises: nothing.
    Range: slope at most 1/(4τ); scores of ±1e4 are fine.
    Relatives: τ → 0 is the argmax, τ → ∞ the uniform distribution; a constant added to scores changes nothing. Of a
      pair it is `bradley_terry_probability` of rewards divided by τ.
    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2 (arXiv:1706.04599).
    """
    (scores,) = aligned("calibrated_softmax", scores=scores)
    return jax.nn.softmax(scores / temperature, axis=-1)


def fitted_temperature(
    scores: Float[Array, "*batch N A"],
    label: Shaped[Array, "*batch N"],
    *,
    lowest: Scalar = 1e-3,
    highest: Scalar = 1e3,
) -> Float[Array, "*batch"]:
    """The temperature under which the answers that were right are likeliest.

        τ = argmin -1/N Σᵢ log softmax(uᵢ/τ)[yᵢ]

    The negative log-likelihood is convex in 1/τ, so the root of its slope is found by bisection.

    Args:
      scores: uᵢ of A answers to each of N held-out questions. Pairs are A = 2, (r, r') or (r - r', 0).
      label: yᵢ in 0 … A - 1, the answer that was right or preferred.
      lowest: the least τ to consider; it is returned where the scores are always right.
      highest: the largest τ; returned where they know nothing.

    Returns: τ in units of score, to seven digits.
    Raises: InputError where the shapes disagree.
    Range: between the two limits, without gradient; nan where a score is.
    Relatives: `calibrated_softmax` applies it; `expected_calibration_error` sees the difference.
    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2 (arXiv:1706.04599).
    """
    if jnp.ndim(scores) < 2 or jnp.shape(scores)[:-1] != jnp.shape(label):
        refuse(
            "fitted_temperature", f"scores has shape {jnp.shape(scores)}, label has shape {jnp.shape(label)}",
            "a row of scores for each label: […, N, A] and […, N]", "Index or reshape first.",
        )  # fmt: skip
    (scores,) = aligned("fitted_temperature", scores=scores)
    scores = jax.lax.stop_gradient(scores)
    is_right = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) == label[..., None]
    right = jnp.sum(jnp.where(is_right, scores, 0.0), axis=-1)

    def slope(inverse):
        """Of the negative log-likelihood in 1/τ: expected less observed score. It rises with 1/τ."""
        expected = jnp.sum(jax.nn.softmax(scores * inverse[..., None, None], axis=-1) * scores, axis=-1)
        return jnp.mean(expected - right, axis=-1)

    def halve(_, ends):
        low, high = ends  # logarithms of 1/τ
        middle = (low + high) / 2
        too_sharp = slope(jnp.exp(middle)) > 0
        return jnp.where(too_sharp, low, middle), jnp.where(too_sharp, middle, high)

    broken = jnp.any(jnp.isnan(scores), axis=(-1, -2))
    # Zeros that depend on the scores: inside `shard_map` a loop has to start with what it carries.
    start = jnp.where(broken, 0.0, 0.0).astype(scores.dtype)
    ends = (start - jnp.log(highest), start - jnp.log(lowest))
    low, high = jax.lax.fori_loop(0, 60, halve, ends)
    return jnp.where(broken, jnp.nan, jnp.exp(-(low + high) / 2)).astype(scores.dtype)
