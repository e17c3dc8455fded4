"""Losses on preference pairs that need no reference: the policy's own likelihoods are compared."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import logistic_cross_entropy
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
    Range: slope at most β; log-probabilities of -1e4 are fine.
    Optimum: for a pair of which the first wins with probability p: log π(y⁺) - log π(y⁻) = logit(p)/β, with ε = 0.
      Over all pairs π ∝ exp(r/β) for Bradley-Terry labels of r: where training began plays no part in it.
    Relatives: `dpo_loss` of log-probabilities. Of two completions of n tokens it is `simpo_loss` with γ = 0 and
      nβ. `cpl_loss` sums the same over the steps of a segment.
    Elsewhere: TRL's CPOTrainer adds the likelihood term unless `cpo_alpha` is 0. Its loss types `hinge` and `ipo`
      are `hinge_loss` of log-probabilities and `ipo_loss` of their averages.
    Source: Xu et al., "Contrastive Preference Optimization", 2024, eq. 3 (arXiv:2401.08417).
    """
    chosen_logp, rejected_logp = aligned("cpo_loss", chosen_logp=chosen_logp, rejected_logp=rejected_logp)
    return _smoothed_logistic(beta * (chosen_logp - rejected_logp), label_smoothing)


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
      gamma: γ >= 0, after β has been multiplied in.
      label_smoothing: ε in [0, 1/2); not in the paper, in TRL.

    Returns: a loss in nats for each pair; log(1 + e^γ) where a⁺ = a⁻ and ε = 0.
    Raises: InputError where the shapes differ.
    Range: slope at most β; averages of -1e4 are fine.
    Optimum: for a pair of which the first wins with probability p, and ε = 0, t = exp(β(a⁺ - a⁻)) is the positive
      root of (1 - p)e^-γ t² + (1 - 2p)t = p e^-γ: t = p/(1 - p) with γ = 0, and further from 1 the larger γ is.
    Relatives: with γ = 0 it is `cpo_loss` of averages; `alphapo_loss` with α = 0; with a likelihood of a third
      completion added it is TPO's length-normalised variant, see `tpo_loss`.
    Elsewhere: γ is TRL's `simpo_gamma`, 0.5; the authors' code asks for γ/β. TRL adds `cpo_alpha`, 1 unless set to
      0, times the likelihood term of CPO, which is not in the paper.
    Source: Meng et al., "SimPO: Simple Preference Optimization with a Reference-Free Reward", 2024, eq. 6
      (arXiv:2405.14734).
    """
    chosen, rejected = aligned(
        "simpo_loss", chosen_average_logp=chosen_average_logp, rejected_average_logp=rejected_average_logp
    )
    return _smoothed_logistic(beta * (chosen - rejected) - gamma, label_smoothing)


def alphapo_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    gamma: Scalar,
    alpha: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """AlphaPO: SimPO with a reward that is bent, so that unlikely completions count for more, or for less.

        loss = -(1 - ε) log σ(z) - ε log σ(-z),   z = β(r⁺ - r⁻) - γ,   r = (1 - p^-α)/α,   p = e^a,
                                                  a = log π(y|x) / |y|

    Args:
      chosen_average_logp: a⁺ of the preferred completion: its log-probability divided by its length, in nats a
        token.
      rejected_average_logp: a⁻ of the other one.
      beta: β > 0.
      gamma: γ >= 0, after β has been multiplied in.
      alpha: α, of any sign; TRL's recipe has 0.25. The slope of r in a is e^(-αa): with α > 0 the steeper the less
        likely a completion is, with α < 0 the flatter.
      label_smoothing: ε in [0, 1/2); not in the paper, in TRL.

    Returns: a loss in nats for each pair; log(1 + e^γ) where a⁺ = a⁻ and ε = 0.
    Raises: InputError where the shapes differ.
    Range: the slope in a is at most β e^(-αa). The exponent -αa is clamped at 80: beyond it counts as 80, with no
      gradient.
    Optimum: that of `simpo_loss`, with r⁺ - r⁻ for a⁺ - a⁻.
    Relatives: with α → 0 `simpo_loss`; with α = -1 the probabilities per token themselves are compared.
    Elsewhere: TRL's loss type `alphapo` is `simpo` with its `alpha`, and no likelihood term. It computes p itself,
      which underflows below a = -104, where r is infinite.
    Source: Gupta et al., "AlphaPO: Reward Shape Matters for LLM Alignment", 2025 (arXiv:2501.03884).
    """
    chosen, rejected = aligned(
        "alphapo_loss", chosen_average_logp=chosen_average_logp, rejected_average_logp=rejected_average_logp
    )
    z = beta * (_bent(chosen, alpha) - _bent(rejected, alpha)) - gamma
    return _smoothed_logistic(z, label_smoothing)


def slic_loss(
    chosen_logp: Float[Array, "*batch"],
    rejected_logp: Float[Array, "*batch"],
    target_logp: Float[Array, "*batch"],
    *,
    delta: Scalar,
    alpha: Scalar,
) -> Float[Array, "*batch"]:
    """Sequence likelihood calibration from human feedback: win by a margin, and stay with the supervised target.

        loss = max(0, δ - log π(y⁺|x) + log π(y⁻|x)) - λ log π(y*|x)

    Args:
      chosen_logp: log π(y⁺|x), summed over its tokens, in nats.
      rejected_logp: log π(y⁻|x).
      target_logp: log π(y*|x) of the answer to imitate: that of the supervised data, or y⁺ itself.
      delta: δ >= 0, the margin in nats after which a pair is left alone.
      alpha: λ >= 0, what the likelihood of the target counts.

    Returns: a loss in nats for each pair; the gradient of the hinge is 0 at its kink.
    Raises: InputError where the shapes differ.
    Range: slope at most 1 for the pair and λ for the target; log-probabilities of -1e4 are fine.
    Optimum: with λ = 0, log π(y⁺) - log π(y⁻) = δ for every pair that is preferred more often than not, however
      close to one half; λ > 0 draws it towards the distribution of the targets.
    Relatives: with λ = 0 it is δ times `hinge_loss` of log-probabilities with β = 1/δ.
    Elsewhere: TRL's `hinge` (of DPO) compares log-ratios and has no target; HALOs' `slic` is this one.
    Source: Zhao et al., "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023 (arXiv:2305.10425).
    """
    chosen, rejected, target = aligned(
        "slic_loss", chosen_logp=chosen_logp, rejected_logp=rejected_logp, target_logp=target_logp
    )
    return jax.nn.relu(delta - chosen + rejected) - alpha * target


def tpo_loss(
    chosen_logp: Float[Array, "*batch"],
    rejected_logp: Float[Array, "*batch"],
    target_logp: Float[Array, "*batch"],
    *,
    beta: Scalar = 0.01,
    alpha: Scalar = 1.0,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Triple preference optimisation: prefer the better of two answers, and imitate a third, the best.

        loss = -(1 - ε) log σ(z) - ε log σ(-z) - α log π(y*|x),   z = β(log π(y⁺|x) - log π(y⁻|x))

    Args:
      chosen_logp: log π(y⁺|x), summed over its tokens, in nats.
      rejected_logp: log π(y⁻|x).
      target_logp: log π(y*|x) of the answer to imitate.
      beta: β > 0, per nat.
      alpha: α >= 0, what the likelihood of the target counts.
      label_smoothing: ε in [0, 1/2); not in the paper, in TRL.

    Returns: a loss in nats for each triple.
    Raises: InputError where the shapes differ.
    Range: slope at most β for the pair and α for the target; log-probabilities of -1e4 are fine.
    Optimum: a compromise of that of `cpo_loss` with the distribution of the targets.
    Relatives: with α = 0 `cpo_loss`. `simpo_loss` in place of the first two terms makes it TPO-L.
    Elsewhere: TRL's TPOTrainer takes the mean of the last term over all target tokens of a batch, not over
      triples: that sum is `cpo_loss` and α times `Weighted.tokens(nll_loss(logps), mask)`.
    Source: Saeidi et al., "Triple Preference Optimization", 2024 (arXiv:2405.16681).
    """
    chosen, rejected, target = aligned(
        "tpo_loss", chosen_logp=chosen_logp, rejected_logp=rejected_logp, target_logp=target_logp
    )
    return _smoothed_logistic(beta * (chosen - rejected), label_smoothing) - alpha * target


def _smoothed_logistic(z: Float[Array, "*batch"], label_smoothing: Scalar) -> Float[Array, "*batch"]:
    return logistic_cross_entropy(z, wrong=label_smoothing)


def _bent(average_logp: Float[Array, "*batch"], alpha: Scalar) -> Float[Array, "*batch"]:
    """(1 - p^-α)/α of p = e^average_logp; exact also for small α, where 1 - p^-α would cancel."""
    flat = alpha == 0
    bent = -jnp.expm1(jnp.minimum(-alpha * average_logp, 80.0)) / jnp.where(flat, 1.0, alpha)
    return jnp.where(flat, average_logp, bent)
