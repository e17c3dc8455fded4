"""Nash-MD-PG: a policy gradient whose reward is a preference over an opponent."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def nash_md_loss(
    logp: Float[Array, "*batch"],
    reference_logp: Float[Array, "*batch"],
    preference: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """The surrogate whose gradient is the Nash-MD-PG ascent direction, negated.

        loss = -sg(P(y ≻ y'|x) - 1/2 - β log(π(y|x)/μ(y|x))) · log π(y|x)
        y ~ π,   y' ~ π^mix ∝ π^(1-c) μ^c,   sg: no gradient

    Its gradient's expectation is exactly -∇[P(π ≻ sg π^mix) - β KL(π‖μ)]. The 1/2 is a control variate and
    changes no expectation.

    Value and gradient are not those of one function. The *value* of this loss is nothing to look at; those
    of interest are `preference` (its mean is P(π ≻ π^mix)) and `logp - reference_logp` (its mean is KL(π‖μ)).
    Differentiating that KL estimate itself would be wrong: ∇log π has mean zero, so the reference would drop
    out. Here the estimate stands inside sg and multiplies log π, which gives the true gradient of the KL.

    The KL term is the log-ratio of the whole sequence times the log-probability of the whole sequence.

    Args:
      logp: log π(y|x) of the policy's own sample, summed over its tokens (its stop token too), in nats.
      reference_logp: log μ(y|x) of the same sample under the frozen reference.
      preference: P(y ≻ y'|x) in [0, 1], against a sample of the mixture; averaged over both orders where the
        judge depends on the order.
      beta: β > 0, the price of KL; the paper's τ.

    Returns: a surrogate for each sample.
    Raises: InputError where the shapes differ.
    Range: everywhere; the slope is |P - 1/2 - β log(π/μ)|, which grows with the log-ratio.
    Optimum: descended in expectation, the Nash policy of the game with P - β KL(·‖μ), `regularized_nash` of
      `prefjax.games`.
    Relatives: with β = 0 it is `reinforce_loss` with advantage P - 1/2.
    Elsewhere: TRL's and EasyDeL's Nash-MD multiply log-ratio and log-probability token by token before summing; then a
      token is not charged for the divergence that it leads to later, and the expected gradient is not that of the
      sequence's KL. EasyDeL also differentiates the log-ratio.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 7 (arXiv:2312.00886).
    """
    logp, reference_logp, preference = aligned(
        "nash_md_loss", logp=logp, reference_logp=reference_logp, preference=preference
    )
    return -jax.lax.stop_gradient(preference - 1 / 2 - beta * (logp - reference_logp)) * logp
