"""Losses on preference pairs with an offset inside the sigmoid: how much should the chosen one win by?"""

import jax
from jaxtyping import Array, Float, Shaped

from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned, one_each
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def odpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    offset: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Direct preference optimisation with an offset: a clearer preference asks for a larger margin.

        loss = -log σ(β(ρ⁺ - ρ⁻) - Δ),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.
      offset: Δ, in units of reward, one for all or one a pair; the paper's is α log(score⁺ - score⁻) with α >= 0,
        and negative where the scores are closer than 1.

    Returns: a loss in nats for each pair; log(1 + e^Δ) where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: for a pair of which the first wins with probability p, with one Δ whichever wins, β(ρ⁺ - ρ⁻) = log u of
      the root u > 0 of (1 - p)u² e^(-Δ) - (2p - 1)u - p e^(-Δ) = 0. For p > 1/2 and a
      large Δ it tends to Δ + log((2p - 1)/(1 - p)); at p = 1/2 it is 0 whatever Δ is.
    Relatives: with Δ = 0 `dpo_loss`; the margin of `bradley_terry_loss` and the γ of `simpo_loss` are such
      offsets; `length_regularised_dpo_loss` is this with Δ = -α(n⁺ - n⁻), `dpop_loss` with Δ = βλ max(0, -ρ⁺).
    Elsewhere: TRL's reward trainer has a margin of this kind, its DPO trainer none.
    Source: Amini et al., "Direct Preference Optimization with an Offset", 2024 (arXiv:2402.10571); the
      optimum is derived.
    """
    chosen_logratio, rejected_logratio, offset = aligned(
        "odpo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        offset=one_each(offset, chosen_logratio),
    )
    return -log_sigmoid(beta * (chosen_logratio - rejected_logratio) - offset)


def length_regularised_dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_length: Shaped[Array, "*batch"],
    rejected_length: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    alpha: Scalar,
) -> Float[Array, "*batch"]:
    """R-DPO: a reward that charges for every token, so that a longer winner already explains part of its win.

        loss = -log σ(β(ρ⁺ - ρ⁻) + α(n⁺ - n⁻)),   ρ = log π(y|x) - log π₀(y|x)

    Under the reward r(x, y) - αn the best policy has βρ = r - αn + a constant: r is βρ + αn, and the loss is its
    Bradley-Terry likelihood.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      chosen_length: n⁺, the number of tokens of the preferred completion.
      rejected_length: n⁻, that of the other one.
      beta: β > 0, in reward per nat away from π₀.
      alpha: α >= 0, in reward per token; a negative one pays for length.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: π₀ exp((r - αn)/β): β(ρ⁺ - ρ⁻) = logit(p) - α(n⁺ - n⁻) for a pair of which the first wins with
      probability p.
    Relatives: with α = 0, or for completions of one length, `dpo_loss`; `odpo_loss` with Δ = -α(n⁺ - n⁻).
    Elsewhere: "RDPO" is also the rationale method (`rationale_dpo_loss`), and TRL's RPO a third one
      (`iterated_dpo_loss`).
    Source: Park et al., "Disentangling Length from Quality in Direct Preference Optimization", 2024
      (arXiv:2403.19159); derived again.
    """
    chosen_logratio, rejected_logratio, chosen_length, rejected_length = aligned(
        "length_regularised_dpo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_length=chosen_length,
        rejected_length=rejected_length,
    )
    offset = -alpha * (chosen_length - rejected_length).astype(chosen_logratio.dtype)
    return odpo_loss(chosen_logratio, rejected_logratio, beta=beta, offset=offset)


def dpop_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    penalty: Scalar,
) -> Float[Array, "*batch"]:
    """DPO-positive (Smaug): DPO, and the chosen completion must not become less likely than it was.

        loss = -log σ(β(ρ⁺ - ρ⁻ - λ max(0, -ρ⁺))),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.
      penalty: λ >= 0, in nats per nat that the chosen completion has lost.

    Returns: a loss in nats for each pair; log 2 where π = π₀. Its gradient at the kink ρ⁺ = 0 is that of DPO.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in ρ⁻, β(1 + λ) in ρ⁺.
    Optimum: that of DPO, ρ⁺ - ρ⁻ = logit(p)/β for a pair of which the first wins with probability p, wherever both
      answers can be at least as likely as under π₀.
    Relatives: with λ = 0, or where ρ⁺ >= 0, `dpo_loss`.
    Source: Pal et al., "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive", 2024
      (arXiv:2402.13228).
    """
    chosen_logratio, rejected_logratio = aligned(
        "dpop_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return dpo_loss(chosen_logratio - penalty * jax.nn.relu(-chosen_logratio), rejected_logratio, beta=beta)


def iterated_dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    alpha: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Iterative reasoning preference optimisation: DPO, and the chosen completion is also imitated.

        loss = -log σ(β(ρ⁺ - ρ⁻)) - α log π(y⁺|x) / |y⁺|,   ρ = log π(y|x) - log π₀(y|x)

    In each iteration pairs are sampled from the last iteration's policy, which is π₀, and told apart by whether
    their answer is right.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      chosen_average_logp: log π(y⁺|x) / |y⁺|: the log-probability of the preferred completion, divided by its
        length, in nats a token.
      beta: β > 0, in reward per nat away from π₀.
      alpha: α >= 0, a weight.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in the log-ratios, α in the average.
    Optimum: a compromise of DPO's, π₀ exp(r/β), and the distribution of chosen completions, ever nearer to the
      second as α grows.
    Relatives: with α = 0 `dpo_loss`; `orpo_loss` has the same imitation term, beside odds.
    Elsewhere: TRL (RPO; today `["sigmoid", "sft"]`) averages the likelihood term over the tokens of all completions
      of a batch, so that long ones weigh more: that sum is `Weighted.of(dpo_loss(…))` and α times
      `Weighted.tokens(nll_loss(chosen_logps), mask)`, each averaged for itself. MPO adds `bco_pair_loss` likewise:
      weights 0.8, 0.2 and 1.
    Source: Pang et al., "Iterative Reasoning Preference Optimization", 2024 (arXiv:2404.19733).
    """
    chosen_logratio, rejected_logratio, chosen_average_logp = aligned(
        "iterated_dpo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_average_logp=chosen_average_logp,
    )
    return dpo_loss(chosen_logratio, rejected_logratio, beta=beta) - alpha * chosen_average_logp
