"""The one recurrence behind every return and advantage: linear, first order, backwards in time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import require


# A loop outside `jit` would be compiled anew at every call.
@jax.jit
def linear_recurrence(
    coefficients: Float[Array, "*batch T"], inputs: Float[Array, "*batch T"], final: Float[Array, "*batch"]
) -> Float[Array, "*batch T"]:
    """Solves the recurrence from its end.

        xₜ = aₜ xₜ₊₁ + bₜ,   t = T-1, …, 0,   x_T given

    Args:
      coefficients: a. A zero cuts: nothing after t reaches what is before.
      inputs: b.
      final: x_T, one for each sequence; not part of the result.

    Returns: x₀, …, x_{T-1}, in float32 or wider.
    Raises: InputError where the shapes disagree.
    Source: derived.
    """
    shape = jnp.shape(inputs)
    require(
        jnp.shape(coefficients) == shape and len(shape) > 0 and jnp.shape(final) == shape[:-1],
        "linear_recurrence",
        f"coefficients, inputs and final have shapes {jnp.shape(coefficients)}, {shape}, {jnp.shape(final)}",
        "[…, T], […, T] and […]", "Repeat what is shared.",
    )  # fmt: skip
    # Thousands of steps are summed; bfloat16 would stop counting at 256.
    dtype = jnp.result_type(coefficients, inputs, final, jnp.float32)
    a, b = (jnp.moveaxis(jnp.asarray(x, dtype), -1, 0) for x in (coefficients, inputs))

    def back(later, a_and_b):
        x = a_and_b[0] * later + a_and_b[1]
        return x, x

    _, x = jax.lax.scan(back, jnp.asarray(final, dtype), (a, b), reverse=True)
    return jnp.moveaxis(x, 0, -1)
