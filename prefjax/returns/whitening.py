"""Whitening: advantages of one batch on one scale, whatever the scale of the rewards was."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import require
from prefjax.types import Scalar


def whitened(
    values: Float[Array, "..."], mask: Shaped[Array, "..."], *, ddof: Scalar = 1, epsilon: Scalar = 1e-8
) -> Float[Array, "..."]:
    """Values less their mean, over their standard deviation.

        (v - v̄) / √(s² + ε),   v̄ = Σ mᵢ vᵢ / n,   s² = Σ mᵢ (vᵢ - v̄)² / (n - ddof),   n = Σ mᵢ

    All that is given is one population: give it the whole rollout, before it is cut into microbatches, since the
    mean and the deviation of a part are others.

    Args:
      values: of any shape, as advantages [B, T].
      mask: 1 where there is a value, 0 for padding, which may hold anything.
      ddof: 1, or 0 for the biased variance of jnp.std.
      epsilon: ε, in squared units of the values.

    Returns: numbers of mean 0 and variance 1, in float32 or wider; 0 where the mask is, or all values are equal.
    Raises: InputError where the shapes differ.
    Range: finite, also for one value and for equal ones, which give 0; the gradient is finite everywhere.
    Relatives: a constant and a positive factor in the values change nothing, up to ε. The returns of GAE are A + V from
      before whitening.
    Elsewhere: TRL's PPO and verl have ddof = 1 and ε = 1e-8 inside the root; some codes have 1e-6.
    Source: Andrychowicz et al., "What Matters in On-Policy Reinforcement Learning?", 2021 (arXiv:2006.05990).
    """
    require(
        jnp.shape(values) == jnp.shape(mask), "whitened",
        f"values has shape {jnp.shape(values)}, mask {jnp.shape(mask)}", "one shape for both", "Repeat what is shared.",
    )  # fmt: skip
    present = mask != 0
    values = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    values = jnp.where(present, values, 0.0)
    count = jnp.sum(present)
    centred = jnp.where(present, values - jnp.sum(values) / jnp.maximum(count, 1), 0.0)
    # Of equal values a rounding error is left, which ε alone would not hide.
    most = jnp.max(jnp.where(present, values, -jnp.inf), initial=-jnp.inf)
    least = jnp.min(jnp.where(present, values, jnp.inf), initial=jnp.inf)
    centred = jnp.where(most > least, centred, 0.0)
    variance = jnp.sum(centred**2) / jnp.maximum(count - ddof, 1)
    # Without ε, of equal values: 0/0 is 0.
    scale = variance + epsilon
    return centred / jnp.sqrt(jnp.where(scale == 0, 1.0, scale))
