"""Losses on preference pairs that need no reference: the policy's own likelihoods are compared."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def cpo_loss(
    chosen_logp: Float[Array, "*batch"],
    rejected_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Contrastive preference optimisation, its preference term: DPO whose reference is uniform.

        loss = -(1 - ε) log σ(z) - ε log σ(-z),   z = β(log π(y⁺|x) - log π(y⁻|x))

    The method adds the likelihood of the chosen completion, which stays visible: `nll_loss` of its tokens,
    averaged by `Weighted.tokens` and weighed by TRL's `cpo_alpha`, 1 there.

    Args:
      chosen_logp: log π(y⁺|x), summed over its tokens, in nats.
      rejected_logp: log π(y⁻|x).
      beta: β > 0, per nat.
      label_smoothing: ε in [0, 1/2), the probability that a label is wrong.

    Returns: a loss in nats for each pair; log 2 where both are equally likely.
    Raises: InputError where the shapes differ.
    Source: Xu et al., "Contrastive Preference Optimization", 2024, eq. 3 (arXiv:2401.08417).
    """
    chosen_logp, rejected_logp = aligned("cpo_loss", chosen_logp=chosen_logp, rejected_logp=rejected_logp)
    z = beta * (chosen_logp - rejected_logp)
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(z) - label_smoothing * jax.nn.log_sigmoid(-z)


def simpo_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    gamma: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Simple preference optimisation: likelihoods per token, and a margin to win by.

        loss = -(1 - ε) log σ(z) - ε log σ(-z),   z = β(a⁺ - a⁻) - γ,   a = log π(y|x) / |y|

    Args:
      chosen_average_logp: a⁺ of the preferred completion: its log-probability divided by its length, in nats a
        token.
      rejected_average_logp: a⁻ of the other one.
      beta: β > 0, per nat a token; the paper's are 2 to 10.
      gamma: γ >= 0, after β has been multiplied in: TRL's `simpo_gamma`. The authors' code asks for γ/β.
      label_smoothing: ε in [0, 1/2); not in the paper, in TRL.

    Returns: a loss in nats for each pair. TRL adds `cpo_alpha`, 1 unless set to 0, times the likelihood term of
      CPO, which is not in the paper either.
    Raises: InputError where the shapes differ.
    Source: Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024, eq. 6
      (arXiv:2405.14734).
    """
    chosen, rejected = aligned(
        "simpo_loss", chosen_average_logp=chosen_average_logp, rejected_average_logp=rejected_average_logp
    )
    z = beta * (chosen - rejected) - gamma
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(z) - label_smoothing * jax.nn.log_sigmoid(-z)


def odds_ratio_loss(
    chosen_average_logp: Float[Array, "*batch"], rejected_average_logp: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """ORPO's second term: the odds of the chosen completion against those of the rejected one.

        loss = -log σ(log odds⁺ - log odds⁻),   odds = p/(1 - p),   p = e^a,   a = log π(y|x) / |y|

    Args:
      chosen_average_logp: a⁺ < 0 of the preferred completion: its log-probability divided by its length, in
        nats a token.
      rejected_average_logp: a⁻ < 0 of the other one.

    Returns: a loss in nats for each pair, not yet times ORPO's λ; log 2 where a⁺ = a⁻. An a nearer to 0 than a
      rounding error of 1 counts as that, without a gradient there: p is 1 then, and its odds would be infinite.
    Raises: InputError where the shapes differ.
    Source: Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024, eq. 7
      (arXiv:2403.07691).
    """
    chosen, rejected = aligned(
        "odds_ratio_loss",
        chosen_average_logp=chosen_average_logp,
        rejected_average_logp=rejected_average_logp,
    )
    return -jax.nn.log_sigmoid(_log_odds(chosen) - _log_odds(rejected))


def orpo_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Odds ratio preference optimisation: imitate the chosen completion, and prefer it by its odds.

        loss = -a⁺ - β log σ(log odds⁺ - log odds⁻),   odds = p/(1 - p),   p = e^a,   a = log π(y|x) / |y|

    The first term counts every completion once. TRL's counts every token of the batch once, and the tokens of
    the prompt too: that sum is `Weighted.tokens(nll_loss(logps), mask)` and β times `odds_ratio_loss`.

    Args:
      chosen_average_logp: a⁺ < 0 of the preferred completion: its log-probability divided by its length, in
        nats a token.
      rejected_average_logp: a⁻ < 0 of the other one.
      beta: β >= 0, the paper's λ, which weighs the second term: no price of KL, but named so by TRL.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
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
    # 1 - p without cancelling, whichever of p and 1 - p is small; each branch sees only what it is for.
    near = logp > -0.6931472
    log_of_rest_near = jnp.log(-jnp.expm1(jnp.where(near, logp, -1.0)))
    log_of_rest_far = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, logp)))
    return logp - jnp.where(near, log_of_rest_near, log_of_rest_far)
