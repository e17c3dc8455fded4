"""The regularised Nash policy of a preference game, and the certificate that a policy is it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.games.preference import check_shapes, expected_preference
from prefjax.types import Scalar

# Newton's step is halved until the residual falls; where no half of it helps, rounding is all that is left.
_HALVINGS = 24
_MOST_STEPS = 200


def regularized_nash(
    preference: Float[Array, "*batch A A"], reference_logp: Float[Array, "*batch A"], *, beta: Scalar
) -> Float[Array, "*batch A"]:
    """The one policy that no policy beats when both pay for leaving μ.

        P_β(π ≻ π') = P(π ≻ π') - β KL(π‖μ) + β KL(π'‖μ)
        π*(y) = μ(y) exp(P(y ≻ π*)/β) / Z

    Solved for u = log π*/μ by Newton's method, each step halved until the residual of u = Pπ/β falls. That
    converges from anywhere: P is antisymmetric around 1/2, so the Jacobian I - P(diag π - ππᵀ)/β is singular
    along constants only, which are taken out; and the residual grows with u. Plain iteration of the fixed
    point diverges on cyclic games once β is small (rock, paper, scissors: β < 0.289).

    In float64 the residual ends below 1e-10 for β >= 0.01; in float32 below 1e-6 (1 + 1/β), which is its
    rounding.
    The derivative in all three arguments is that of the implicit function theorem.

    Args:
      preference: P[i, j] = P(yᵢ ≻ yⱼ), antisymmetric around 1/2 (see `check_preference`).
      reference_logp: log μ of the A answers, normalised or not; -inf where an answer does not exist.
      beta: β > 0, the price of KL to μ; the paper's τ.

    Returns: log π*.
    Raises: InputError where the shapes disagree.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 4 (arXiv:2312.00886). The fixed
      point and the solver are derived.
    """
    check_shapes("regularized_nash", preference, reference_logp=reference_logp)
    *batch, answers = reference_logp.shape
    games = preference.reshape(-1, answers, answers), reference_logp.reshape(-1, answers)
    return jax.vmap(lambda p, r: _solve(p, r, beta))(*games).reshape(*batch, answers)


def duality_gap(
    logp: Float[Array, "*batch A"],
    reference_logp: Float[Array, "*batch A"],
    preference: Float[Array, "*batch A A"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """What the best opponent gains over a policy: zero at the regularised Nash policy, and only there.

        G(π) = max_π' P_β(π' ≻ π) - 1/2 = β KL(π‖π'),   π' ∝ μ exp(P(· ≻ π)/β)

    The last equality holds because P(π ≻ π) = 1/2; it makes the certificate exact near zero. Half of the gap
    between both players' best responses, since the game is symmetric.

    Args:
      logp: log π of the A answers.
      reference_logp: log μ.
      preference: P[i, j] = P(yᵢ ≻ yⱼ).
      beta: β > 0, the price of KL to μ; the paper's τ.

    Returns: G >= 0, rounding aside, in units of preference.
    Raises: InputError where the shapes disagree.
    Source: derived; the game is that of Munos et al., "Nash Learning from Human Feedback", 2023, section 4
      (arXiv:2312.00886).
    """
    check_shapes("duality_gap", preference, logp=logp, reference_logp=reference_logp)
    logp = jax.nn.log_softmax(logp)
    policy = jnp.exp(logp)
    response = jax.nn.log_softmax(reference_logp + expected_preference(policy, preference) / beta)
    # An answer of probability 0 contributes nothing, also where the response gives it none: 0 log 0/0 = 0.
    return beta * jnp.sum(jnp.where(policy == 0, 0.0, policy * (logp - response)), axis=-1)


# A loop outside `jit` would be compiled anew at every call.
@jax.jit
def _solve(
    preference: Float[Array, "A A"], reference_logp: Float[Array, " A"], beta: Scalar
) -> Float[Array, " A"]:
    def residual(u, preference, reference_logp, beta):
        wanted = preference @ jax.nn.softmax(reference_logp + u) / beta
        return (u - u.mean()) - (wanted - wanted.mean())

    game = preference, reference_logp, beta
    fixed = jax.lax.stop_gradient(game)

    def newton(u, game):
        """The step from u; derivatives go through the residual alone."""
        preference, reference_logp, beta = fixed
        policy = jax.nn.softmax(reference_logp + u)
        slope = (preference - (preference @ policy)[:, None]) * policy[None]
        jacobian = jnp.eye(len(u), dtype=u.dtype) - (slope - slope.mean(axis=0, keepdims=True)) / beta
        return -jnp.linalg.solve(jacobian, residual(u, *game))

    def size(u):
        return jnp.abs(residual(u, *fixed)).max()

    def halved(state):
        u, now, _, steps = state
        tried = u[None] + 0.5 ** jnp.arange(_HALVINGS, dtype=u.dtype)[:, None] * newton(u, fixed)[None]
        sizes = jax.vmap(size)(tried)
        best = jnp.argmin(sizes)
        better = sizes[best] < now
        return jnp.where(better, tried[best], u), jnp.where(better, sizes[best], now), better, steps + 1

    start = jnp.zeros_like(fixed[1])
    u, *_ = jax.lax.while_loop(
        lambda state: state[2] & (state[3] < _MOST_STEPS), halved, (start, size(start), size(start) >= 0, 0)
    )
    # Once more at the solution, where the step is nothing and its derivative is that of the solution.
    return jax.nn.log_softmax(reference_logp + u + newton(u, game))
