"""How far training moves a distribution over stances, and when."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def value_drift(
    before: Float[Array, "*batch S"], after: Float[Array, "*batch S"]
) -> Float[Array, "*batch S"]:
    """By how much each stance has become more probable between two checkpoints.

        M_s = v_t'(s) - v_t(s),   Σ_s M_s = 0

    Args:
      before: v_t, the distribution over S stances on one topic: a judge's probabilities, averaged over samples, then
        over prompts.
      after: v_t' of a later checkpoint, with the same prompts and seeds.

    Returns: a number in [-1, 1] for each stance.
    Raises: InputError where the shapes differ.
    Range: between -1 and 1.
    Relatives: of the chosen and the rejected completions of a data set it is its value gap, without which
      preference learning moves no stance.
    Source: Bhatia et al., "Value Drifts: Tracing Value Alignment During LLM Post-Training", 2025 (arXiv:2510.26707).
    """
    before, after = aligned("value_drift", before=before, after=after)
    return after - before


def drift_distance(
    before: Float[Array, "*batch S"], after: Float[Array, "*batch S"]
) -> Float[Array, "*batch"]:
    """How far a distribution over stances has moved in all: total variation.

        1/2 Σ_s |M_s|

    Args:
      before: v_t over S stances.
      after: v_t'.

    Returns: a number in [0, 1].
    Raises: InputError where the shapes differ.
    Range: between 0 and 1; gradient 0 at the kinks.
    Relatives: at least the largest |M_s| of `value_drift`; of two stances it is equal to it.
    Source: a summary of Bhatia et al., "Value Drifts", 2025 (arXiv:2510.26707), added here.
    """
    before, after = aligned("drift_distance", before=before, after=after)
    drift = after - before
    return jnp.sum(jnp.where(drift == 0, 0.0, jnp.abs(drift)), axis=-1) / 2


def drift_time(
    values: Float[Array, "*batch T"], *, level: Scalar = 0.95, least: Scalar = 0.02
) -> Float[Array, "*batch"]:
    """How early in training a stance has moved as far as it ever will.

        η = min{t : (vₜ - v₀)/(vₑ - v₀) ≥ 0.95}/(T - 1),   e = argmaxₜ |vₜ - v₀|

    Args:
      values: vₜ(s) of one stance at T checkpoints, equally far apart, the first before training.
      level: the share of the largest move.
      least: a move no larger than this has no time.

    Returns: η in (0, 1]; nan where the stance has hardly moved.
    Raises: nothing.
    Range: between 0 and 1, without gradient.
    Source: Bhatia et al., "Value Drifts: Tracing Value Alignment During LLM Post-Training", 2025 (arXiv:2510.26707);
      the exact rule is our reading.
    """
    (values,) = aligned("drift_time", values=values)
    moves = values - values[..., :1]
    extreme = jnp.take_along_axis(moves, jnp.argmax(jnp.abs(moves), axis=-1, keepdims=True), axis=-1)
    # Multiplied by the sign in place of divided: no 0/0 where nothing moved.
    reached = moves * jnp.sign(extreme) >= level * jnp.abs(extreme)
    first = jnp.argmax(reached, axis=-1) / max(values.shape[-1] - 1, 1)
    return jnp.where(jnp.abs(extreme[..., 0]) > least, first, jnp.nan).astype(values.dtype)
