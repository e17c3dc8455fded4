"""Preference matrices: games between two policies, in which one answer is preferred to another."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from prefjax.checks import require


def check_preference(preference: Float[np.ndarray, "*batch A A"], *, where: str = "preference") -> None:
    """Refuses what is not a preference matrix; for concrete arrays, at the door.

        P[i, j] = P(yᵢ ≻ yⱼ) in [0, 1],   P[i, j] + P[j, i] = 1,   so P[i, i] = 1/2

    Args:
      preference: P, one matrix or a batch of them.
      where: how the user knows it; begins the message.

    Raises: InputError that names the first bad entry: not square, not finite, outside [0, 1], or not
      antisymmetric around 1/2 (to 1e-6; average both orders of a judge that depends on the order).
    """
    p = np.asarray(preference, np.float64)
    require(
        p.ndim >= 2 and p.shape[-1] == p.shape[-2] and p.size > 0, where, f"shape {p.shape}",
        "[…, A, A], a square matrix of answers against answers", "Give every pair of answers an entry.",
    )  # fmt: skip

    def entry(good: np.ndarray, table: np.ndarray) -> str:
        index = tuple(map(int, np.unravel_index(int(np.argmin(good)), good.shape)))
        return f"entry {index} is {table[index]:.6g}"

    finite, inside = np.isfinite(p), (p >= 0) & (p <= 1)
    require(
        bool(finite.all()), where, entry(finite, p), "finite probabilities", "Find the judge's bad answer."
    )
    require(bool(inside.all()), where, entry(inside, p), "P(yᵢ ≻ yⱼ) in [0, 1]", "Pass scores through σ.")
    both = p + np.swapaxes(p, -1, -2)
    antisymmetric = np.abs(both - 1) <= 1e-6
    total = both.flat[int(np.argmin(antisymmetric))]
    require(
        bool(antisymmetric.all()), where,
        f"{entry(antisymmetric, p)} and with its mirror image sums to {total:.6g}",
        "P(yᵢ ≻ yⱼ) + P(yⱼ ≻ yᵢ) = 1, and 1/2 on the diagonal", "Average both orders: (P + 1 - Pᵀ) / 2.",
    )  # fmt: skip


def win_rate(
    policy: Float[Array, "*batch A"],
    opponent: Float[Array, "*batch A"],
    preference: Float[Array, "*batch A A"],
) -> Float[Array, "*batch"]:
    """How often an answer of one policy is preferred to an answer of the other.

        P(π ≻ π') = Σᵢⱼ π(yᵢ) P[i, j] π'(yⱼ)

    Args:
      policy, opponent: π and π', probabilities of the A answers.
      preference: P[i, j] = P(yᵢ ≻ yⱼ).

    Returns: a probability; 1/2 against oneself.
    Raises: InputError where the shapes disagree.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 3 (arXiv:2312.00886).
    """
    check_shapes("win_rate", preference, policy=policy, opponent=opponent)
    return jnp.sum(policy * expected_preference(opponent, preference), axis=-1)


def expected_preference(
    opponent: Float[Array, "*batch A"], preference: Float[Array, "*batch A A"]
) -> Float[Array, "*batch A"]:
    """P(yᵢ ≻ π') = Σⱼ P[i, j] π'(yⱼ), of every answer against one policy."""
    return jnp.einsum("...ij,...j->...i", preference, opponent)


def check_shapes(function: str, preference: Float[Array, "..."], **policies: Float[Array, "..."]) -> None:
    """Every policy is [..., A] and the preference [..., A, A]; known when traced, so free under `jit`."""
    shape = jnp.shape(preference)
    for name, policy in policies.items():
        got = jnp.shape(policy)
        require(
            len(shape) >= 2 and shape[-1] == shape[-2] and got == shape[:-1], function,
            f"{name} has shape {got}, preference {shape}", "[…, A] and […, A, A] with the same batch",
            "Repeat or `vmap` over what is shared.",
        )  # fmt: skip
