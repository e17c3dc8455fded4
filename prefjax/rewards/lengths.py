"""What length costs: DAPO's penalty of completions that come close to the end of their room."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.types import Scalar


def overlong_penalty(
    lengths: Shaped[Array, "*batch"], *, max_length: Scalar, cache: Scalar
) -> Float[Array, "*batch"]:
    """DAPO's soft overlong punishment: nothing, then a ramp, then the full price.

        0                        n <= L - c
        ((L - c) - n) / c        L - c < n <= L
        -1                       n > L

    Args:
      lengths: n, tokens of each completion.
      max_length: L, in tokens; 20,480 in the paper.
      cache: c >= 0, the last tokens of the room, which the ramp takes; 4,096 in the paper. 0 is no ramp.

    Returns: what is added to the reward of each completion, from -1 to 0, in units of a reward of 1.
    Raises: nothing.
    Range: bounded; without gradient where lengths are integers.
    Relatives: with c = 0 a price of 1 for n > L.
    Elsewhere: TRL's `get_soft_overlong_punishment`; verl multiplies by a factor, 1 by default. To leave such
      completions out instead is DAPO's overlong filtering, TRL's `mask_truncated_completions`.
    Source: Yu et al., "DAPO", 2025, eq. 13 (arXiv:2503.14476).
    """
    lengths = jnp.asarray(lengths, jnp.promote_types(jnp.result_type(lengths), jnp.float32))
    over = lengths - (max_length - cache)
    ramp = -over / jnp.where(jnp.asarray(cache) == 0, 1, cache)
    return jnp.where(lengths > max_length, -1.0, jnp.where(over > 0, ramp, 0.0))
