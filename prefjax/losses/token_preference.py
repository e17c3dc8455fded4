"""TDPO: pairs whose preference is a sum over tokens of advantages, not a reward of the whole."""

import jax
from jaxtyping import Array, Float

from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def tdpo1_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_kl: Float[Array, "*batch"],
    rejected_kl: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Token-level DPO, first form: log-ratios, and how far the policy has moved along each completion.

        loss = -log σ(β(ρ⁺ - ρ⁻) + β(D⁺ - D⁻)),   ρ = log π(y|x) - log π₀(y|x)
        D = Σₜ KL(π₀(·|x, y₍<ₜ₎) ‖ π(·|x, y₍<ₜ₎))

    Where every token maximises A(s, z) - β KL(π‖π₀), A being the advantage under π₀, A = β log π/π₀ + β KL(π₀‖π).
    Summed over a completion this is β(ρ + D), and the loss is the Bradley-Terry likelihood of these sums.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      chosen_kl: D⁺ >= 0, `kl_exact(reference_logits, logits)` summed over the tokens of the completion, in nats.
      rejected_kl: D⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss in nats for each pair; log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: π₀ exp(A/β) at every token, where a completion wins by the sum of its advantages under π₀.
    Relatives: `dpo_loss` where D⁺ = D⁻. `tdpo2_loss` with α = 1 has this value, and no gradient through D⁺.
    Elsewhere: the authors' code takes the second form unless told otherwise.
    Source: Zeng et al., "Token-level Direct Preference Optimization", 2024, TDPO₁ (arXiv:2404.11999); derived again.
    """
    chosen_logratio, rejected_logratio, chosen_kl, rejected_kl = aligned(
        "tdpo1_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_kl=chosen_kl,
        rejected_kl=rejected_kl,
    )
    return dpo_loss(chosen_logratio + chosen_kl, rejected_logratio + rejected_kl, beta=beta)


def tdpo2_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_kl: Float[Array, "*batch"],
    rejected_kl: Float[Array, "*batch"],
    *,
    beta: Scalar,
    alpha: Scalar = 0.5,
) -> Float[Array, "*batch"]:
    """Token-level DPO, second form: the divergence counts α times, and only that of the rejected one is moved.

        loss = -log σ(β(ρ⁺ - ρ⁻) + αβ(sg(D⁺) - D⁻)),   ρ = log π(y|x) - log π₀(y|x)
        D = Σₜ KL(π₀(·|x, y₍<ₜ₎) ‖ π(·|x, y₍<ₜ₎)),   sg: no gradient

    In the first form the gradient also raises D⁺, away from π₀ along the completion that was liked.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      chosen_kl: D⁺ >= 0, `kl_exact(reference_logits, logits)` summed over the tokens of the completion, in nats.
      rejected_kl: D⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀; 0.1 in the authors' code.
      alpha: α >= 0; 0.5 in the authors' code.

    Returns: a loss in nats for each pair; log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in the log-ratios, αβ in D⁻, 0 in D⁺.
    Optimum: none that is known: with the gradient of D⁺ left out it is not that of its value.
    Relatives: with α = 0 `dpo_loss`; with α = 1 it has the value of `tdpo1_loss`.
    Source: Zeng et al., "Token-level Direct Preference Optimization", 2024, TDPO₂ (arXiv:2404.11999).
    """
    chosen_logratio, rejected_logratio, chosen_kl, rejected_kl = aligned(
        "tdpo2_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_kl=chosen_kl,
        rejected_kl=rejected_kl,
    )
    chosen = chosen_logratio + alpha * jax.lax.stop_gradient(chosen_kl)
    return dpo_loss(chosen, rejected_logratio + alpha * rejected_kl, beta=beta)
