"""Nash-MD: mirror descent on a preference game, against a mixture of oneself and the reference."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import require
from prefjax.games.preference import check_shapes, expected_preference
from prefjax.types import Scalar


def geometric_mixture(
    logp: Float[Array, "*batch A"], reference_logp: Float[Array, "*batch A"], *, coef: Scalar
) -> Float[Array, "*batch A"]:
    """The policy between π and μ on the way that is straight in log-probabilities.

        log π^mix = (1 - c) log π + c log μ - log Z

    For next-token distributions this is the mixture that decoding uses. Token by token it is not the mixture
    of sequences, whose normaliser is one for all prefixes.

    Args:
      logp: log π, up to a constant; logits will do. -inf where an answer does not exist.
      reference_logp: log μ, likewise.
      coef: c in [0, 1], the weight of the reference.

    Returns: log π^mix, normalised; exactly log π at c = 0 and log μ at c = 1, whatever the other's support.
    Raises: InputError where the shapes differ.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 6 (arXiv:2312.00886).
    """
    require(
        jnp.shape(logp) == jnp.shape(reference_logp), "geometric_mixture",
        f"logp has shape {jnp.shape(logp)}, reference_logp {jnp.shape(reference_logp)}",
        "the same shape for both", "Repeat or `vmap` over what is shared.",
    )  # fmt: skip
    return jax.nn.log_softmax(_times(1 - coef, logp) + _times(coef, reference_logp))


def nash_md_step(
    logp: Float[Array, "*batch A"],
    reference_logp: Float[Array, "*batch A"],
    preference: Float[Array, "*batch A A"],
    *,
    beta: Scalar,
    step_size: Scalar,
) -> Float[Array, "*batch A"]:
    """One step of Nash-MD: both the opponent and the centre of the step are the mixture.

        π^mix ∝ π^(1-ηβ) μ^(ηβ)
        π_next = argmax_π { η P(π ≻ π^mix) - KL(π‖π^mix) } ∝ π^mix exp(η P(· ≻ π^mix))

    Since the opponent is the mixture, a constant η has a fixed point near the regularised Nash policy and not
    at it; `nash_md` lets η decay.

    Args:
      logp: log π of the A answers.
      reference_logp: log μ.
      preference: P[i, j] = P(yᵢ ≻ yⱼ).
      beta: β > 0, the price of KL to μ; the paper's τ.
      step_size: η > 0 with ηβ <= 1. (Where the method is restated by others, η can be its inverse.)

    Returns: log π_next.
    Raises: InputError where the shapes disagree.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 6 (arXiv:2312.00886).
    """
    check_shapes("nash_md_step", preference, logp=logp, reference_logp=reference_logp)
    mixture = geometric_mixture(logp, reference_logp, coef=step_size * beta)
    return jax.nn.log_softmax(mixture + step_size * expected_preference(jnp.exp(mixture), preference))


# A loop outside `jit` would be compiled anew at every call.
@functools.partial(jax.jit, static_argnames="num_steps")
def nash_md(
    initial_logp: Float[Array, "*batch A"],
    reference_logp: Float[Array, "*batch A"],
    preference: Float[Array, "*batch A A"],
    *,
    beta: Scalar,
    num_steps: int,
) -> Float[Array, "*batch T A"]:
    """Nash-MD with the decaying step of its theorem; the last iterate converges.

        ηₜ = 2/(β(t + 2)),   t = 0, 1, …
        KL(π*‖π_T) <= 8/(β²(T + 1)),   π* the regularised Nash policy

    η₀β = 1, so the first step forgets where it started.

    Args:
      initial_logp: log π₀.
      reference_logp: log μ.
      preference: P[i, j] = P(yᵢ ≻ yⱼ).
      beta: β > 0, the price of KL to μ; the paper's τ.
      num_steps: T, static.

    Returns: log π₀, …, log π_T: [..., T + 1, A]. The last one is the policy.
    Raises: InputError where the shapes disagree.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, theorem 1 (arXiv:2312.00886).
    """
    check_shapes("nash_md", preference, initial_logp=initial_logp, reference_logp=reference_logp)
    start = jax.nn.log_softmax(initial_logp)

    def step(logp, t):
        step_size = 2 / (beta * (t + 2))
        logp = nash_md_step(logp, reference_logp, preference, beta=beta, step_size=step_size)
        return logp, logp

    _, iterates = jax.lax.scan(step, start, jnp.arange(num_steps, dtype=start.dtype))
    return jnp.moveaxis(jnp.concatenate([start[None], iterates]), 0, -2)


def nash_md_bound(num_steps: Scalar, *, beta: Scalar) -> Scalar:
    """KL(π*‖π_T) <= 8/(β²(T + 1)) after T = `num_steps` steps of `nash_md`.

    Source: Munos et al., "Nash Learning from Human Feedback", 2023, theorem 1 (arXiv:2312.00886).
    """
    return 8 / (beta**2 * (num_steps + 1))


def _times(weight: Scalar, logp: Float[Array, "*batch A"]) -> Float[Array, "*batch A"]:
    # 0 · (-inf) is 0 here: a factor raised to the power 0 has no say.
    return jnp.where(weight == 0, 0.0, weight * jnp.where(weight == 0, 0.0, logp))
