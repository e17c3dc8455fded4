"""Pairs that come with a rationale: the policy also learns to say why one completion is better.

A rationale is a text r that follows a prompt q of its own, which holds the question and both completions. Its
likelihood under the same policy is a term beside any loss on pairs. Where there is no rationale, log π(r|q) is an
empty sum, 0, and so is the term.
"""

from jaxtyping import Array, Float

from prefjax.losses.odds import orpo_loss
from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def rationale_term(rationale_logp: Float[Array, "*batch"], *, gamma: Scalar) -> Float[Array, "*batch"]:
    """The likelihood of the rationale, as the paper's factorisation has it.

        -γ log π(r|q),   from log p(y⁺ ≻ y⁻, r | x) = log p(y⁺ ≻ y⁻ | x) + log p(r | q)

    Args:
      rationale_logp: log π(r|q), summed over the rationale's tokens, in nats; divided by their number for a γ that
        does not depend on it.
      gamma: γ >= 0.

    Returns: a term for each pair, in nats.
    Raises: nothing.
    Range: everywhere; slope γ.
    Optimum: the distribution of rationales.
    Relatives: with γ = 0 nothing is added. `rationale_sigmoid_term` is half as steep to as steep.
    Source: Just et al., "Data-Centric Human Preference Optimization with Rationales", 2024 (arXiv:2407.14477).
    """
    (rationale_logp,) = aligned("rationale_term", rationale_logp=rationale_logp)
    return -gamma * rationale_logp


def rationale_sigmoid_term(
    rationale_logp: Float[Array, "*batch"], *, gamma: Scalar
) -> Float[Array, "*batch"]:
    """The likelihood of the rationale inside a sigmoid, as the authors' code has it.

        -log σ(γ log π(r|q))

    Args:
      rationale_logp: log π(r|q) of the rationale, in nats; summed over its tokens in the authors' RDPO, averaged in
        their RORPO.
      gamma: γ >= 0; 0.1 in the authors' settings, 0.001 in their example.

    Returns: a term for each pair, in nats; log 2 at γ = 0.
    Raises: nothing.
    Range: everywhere; slope γσ(-γ log π(r|q)), from γ/2 for a likely rationale to γ for an unlikely one.
    Optimum: near the distribution of rationales; of two, the likelier one is favoured less.
    Relatives: with γ = 0 log 2 and no gradient. For γ log π(r|q) far below 0 it is `rationale_term`, near 0 half of
      that and log 2.
    Elsewhere: `dpo_loss` and this term are the RDPO of the authors' code; `rationale_dpo_loss` is the paper's.
    Source: Just et al., 2024 (arXiv:2407.14477), the code; the relation of the two forms is derived.
    """
    (rationale_logp,) = aligned("rationale_sigmoid_term", rationale_logp=rationale_logp)
    return -log_sigmoid(gamma * rationale_logp)


def rationale_dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    rationale_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    gamma: Scalar,
) -> Float[Array, "*batch"]:
    """DPO with rationales: prefer the better completion, and explain it.

        loss = -log σ(β(ρ⁺ - ρ⁻)) - γ log π(r|q),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      rationale_logp: log π(r|q) of the rationale, summed over its tokens, in nats. It needs no reference.
      beta: β > 0, in reward per nat away from π₀.
      gamma: γ >= 0.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in the log-ratios, γ in log π(r|q).
    Optimum: that of DPO for the completions, the distribution of rationales for these; nothing holds the latter to
      π₀.
    Relatives: with γ = 0 `dpo_loss`; otherwise that plus `rationale_term`.
    Elsewhere: the authors' code adds `rationale_sigmoid_term` instead. "R-DPO" is also
      `length_regularised_dpo_loss`.
    Source: Just et al., "Data-Centric Human Preference Optimization with Rationales", 2024 (arXiv:2407.14477).
    """
    chosen_logratio, rejected_logratio, rationale_logp = aligned(
        "rationale_dpo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        rationale_logp=rationale_logp,
    )
    preferred = dpo_loss(chosen_logratio, rejected_logratio, beta=beta)
    return preferred + rationale_term(rationale_logp, gamma=gamma)


def rationale_orpo_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    rationale_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    gamma: Scalar,
) -> Float[Array, "*batch"]:
    """ORPO with rationales: imitate the better completion, prefer it by its odds, and explain it.

        loss = -a⁺ - β log σ(log odds⁺ - log odds⁻) - γ aᵣ,   odds = p/(1 - p),   p = e^a

    Args:
      chosen_average_logp: a⁺ < 0 of the preferred completion: its log-probability divided by its length, in
        nats a token.
      rejected_average_logp: a⁻ < 0 of the other one.
      rationale_average_logp: aᵣ of the rationale, likewise.
      beta: β >= 0, ORPO's λ.
      gamma: γ >= 0; 1 in the authors' settings, with β = 0.1.

    Returns: a loss in nats for each pair.
    Raises: InputError where the shapes differ.
    Range: that of `orpo_loss`; slope γ in aᵣ.
    Optimum: that of ORPO for the completions, the distribution of rationales for these.
    Relatives: with γ = 0 `orpo_loss`; otherwise that plus `rationale_term` of an average.
    Elsewhere: the authors' "simple RORPO", but that their first term is a mean over the tokens of a batch. Their RORPO
      has `rationale_sigmoid_term` instead.
    Source: Just et al., "Data-Centric Human Preference Optimization with Rationales", 2024 (arXiv:2407.14477).
    """
    chosen, rejected, rationale = aligned(
        "rationale_orpo_loss",
        chosen_average_logp=chosen_average_logp,
        rejected_average_logp=rejected_average_logp,
        rationale_average_logp=rationale_average_logp,
    )
    return orpo_loss(chosen, rejected, beta=beta) + rationale_term(rationale, gamma=gamma)
