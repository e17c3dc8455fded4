"""Losses on preference pairs by odds: how much likelier each completion is said than not said."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.losses.unlikelihood import unlikelihood_loss
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def odds_ratio_loss(
    chosen_average_logp: Float[Array, "*batch"], rejected_average_logp: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """ORPO's second term: the odds of the chosen completion against those of the rejected one.

        loss = -log σ(log odds⁺ - log odds⁻),   odds = p/(1 - p),   p = e^a,   a = log π(y|x) / |y|

    Args:
      chosen_average_logp: a⁺ < 0 of the preferred completion: its log-probability divided by its length, in
        nats a token.
      rejected_average_logp: a⁻ < 0 of the other one.

    Returns: a loss in nats for each pair, not yet times ORPO's λ; log 2 where a⁺ = a⁻.
    Raises: InputError where the shapes differ.
    Range: the slope in a is at most 1/(1 - p). An a nearer to 0 than a rounding error of 1 counts as that, without
      a gradient there: p is 1 then, and its odds would be infinite.
    Optimum: for a pair of which the first wins with probability p: log odds⁺ - log odds⁻ = logit(p).
    Relatives: where both are improbable it is `simpo_loss` with β = 1 and γ = 0.
    Elsewhere: TRL's ORPOTrainer takes the logarithm of 1 - e^a directly, which is nan for an answer that is
      certain.
    Source: Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024, eq. 7
      (arXiv:2403.07691).
    """
    chosen, rejected = aligned(
        "odds_ratio_loss",
        chosen_average_logp=chosen_average_logp,
        rejected_average_logp=rejected_average_logp,
    )
    return -log_sigmoid(_log_odds(chosen) - _log_odds(rejected))


def orpo_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Odds ratio preference optimisation: imitate the chosen completion, and prefer it by its odds.

        loss = -a⁺ - β log σ(log odds⁺ - log odds⁻),   odds = p/(1 - p),   p = e^a,   a = log π(y|x) / |y|

    The first term counts every completion once.

    Args:
      chosen_average_logp: a⁺ < 0 of the preferred completion: its log-probability divided by its length, in
        nats a token.
      rejected_average_logp: a⁻ < 0 of the other one.
      beta: β >= 0, the paper's λ, which weighs the second term: no price of KL, but named so by TRL.

    Returns: a loss in nats for each pair; -a⁺ + β log 2 where a⁺ = a⁻.
    Raises: InputError where the shapes differ.
    Range: that of `odds_ratio_loss`, and slope 1 in a⁺ for the first term.
    Optimum: no closed form: imitation of what is chosen, tilted by the odds; π = 1 on an answer that always wins.
    Relatives: with β = 0 the mean of `nll_loss` over each completion's tokens.
    Elsewhere: TRL's first term counts every token of the batch once, and the tokens of the prompt too: that sum is
      `Weighted.tokens(nll_loss(logps), mask)` and β times `odds_ratio_loss`.
    Source: Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024, eq. 6
      (arXiv:2403.07691).
    """
    chosen, rejected = aligned(
        "orpo_loss", chosen_average_logp=chosen_average_logp, rejected_average_logp=rejected_average_logp
    )
    return -chosen + beta * odds_ratio_loss(chosen, rejected)


def _log_odds(logp: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """log p - log(1 - p) of p = e^logp."""
    logp = jnp.minimum(logp, -jnp.finfo(logp.dtype).eps)
    # An axis for the tokens that it expects, here one.
    return logp + unlikelihood_loss(logp[..., None])[..., 0]
