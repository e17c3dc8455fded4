"""Links: what stands in for the log-ratio in a loss on pairs when another divergence than KL holds the policy.

The policy that maximises E[r] - β D_f(π‖π₀), with D_f(π‖π₀) = E_π₀[f(π/π₀)], has β f'(π/π₀) = r - λ(x). So f' of the
ratio takes the place that the log-ratio has in DPO:

    dpo_loss(link(chosen_logratio), link(rejected_logratio), beta=beta)

Each link here is f' with f'(1) = 0. The constant that this fixes cancels wherever only the difference of two
links counts, and only such losses have the optimum above: TRL refuses the others.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar

# e⁸⁰ is 6e34: what multiplies it still has room in float32. TRL has the same limit.
_LARGEST_EXPONENT = 80.0


def reverse_kl_link(logratio: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The link of KL(π‖π₀), which is that of DPO itself: the log-ratio as it is.

        S(ρ) = ρ,   f(t) = t log t - t + 1

    Args:
      logratio: ρ = log π(y|x) - log π₀(y|x), summed over tokens, in nats.

    Returns: ρ, in float32 or wider.
    Raises: nothing.
    Range: everywhere; slope 1.
    Optimum: with `dpo_loss`, S(ρ⁺) - S(ρ⁻) = logit(p)/β for a pair of which the first wins with probability p.
    Relatives: `alpha_link` with α = 1.
    Source: Rafailov et al., "Direct Preference Optimization", 2023 (arXiv:2305.18290); as one of a family: Wang et
      al., "Beyond Reverse KL", 2023 (arXiv:2309.16240).
    """
    (logratio,) = aligned("reverse_kl_link", logratio=logratio)
    return logratio


def forward_kl_link(logratio: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The link of KL(π₀‖π): a completion that all but vanishes is charged without limit.

        S(ρ) = 1 - e^(-ρ),   f(t) = -log t + t - 1

    Args:
      logratio: ρ = log π(y|x) - log π₀(y|x), summed over tokens, in nats.

    Returns: S(ρ), below 1; 0 where π = π₀.
    Raises: nothing.
    Range: the exponent -ρ is clamped at 80: a completion less likely than e⁻⁸⁰ of what it was counts as e⁻⁸⁰, with
      no gradient. The slope is e^(-ρ).
    Optimum: with `dpo_loss`, S(ρ⁺) - S(ρ⁻) = logit(p)/β for a pair of which the first wins with probability p:
      then π is best under r - β KL(π₀‖π).
    Relatives: `alpha_link` with α = 0.
    Elsewhere: TRL's `forward_kl` has no clamp, so that in float32 it is infinite for ρ below -88; up to version 1.10
      it had no constant 1.
    Source: Wang et al., "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence
      Constraints", 2023 (arXiv:2309.16240).
    """
    (logratio,) = aligned("forward_kl_link", logratio=logratio)
    return -jnp.expm1(jnp.minimum(-logratio, _LARGEST_EXPONENT))


def jensen_shannon_link(logratio: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The link of the Jensen-Shannon divergence: raising a completion earns at most log 2.

        S(ρ) = log 2 + log σ(ρ),   f(t) = t log t - (t + 1) log((t + 1)/2)

    Args:
      logratio: ρ = log π(y|x) - log π₀(y|x), summed over tokens, in nats.

    Returns: S(ρ), below log 2; 0 where π = π₀.
    Raises: nothing.
    Range: everywhere; slope σ(-ρ), at most 1.
    Optimum: with `dpo_loss`, S(ρ⁺) - S(ρ⁻) = logit(p)/β for a pair of which the first wins with probability p:
      then π is best under r - 2β JS(π, π₀).
    Relatives: for ρ far below 0 it is `reverse_kl_link` and a constant, log 2.
    Elsewhere: TRL's `js_divergence`, which had no constant log 2 up to version 1.10. The f above is twice the
      Jensen-Shannon divergence as it is usually defined, in the paper as in TRL.
    Source: Wang et al., "Beyond Reverse KL", 2023 (arXiv:2309.16240).
    """
    (logratio,) = aligned("jensen_shannon_link", logratio=logratio)
    return log_sigmoid(logratio) + jnp.log(2.0)


def alpha_link(logratio: Float[Array, "*batch"], *, alpha: Scalar) -> Float[Array, "*batch"]:
    """The link of an α-divergence, which runs from the forward KL divergence (α = 0) to the reverse one (α = 1).

        S(ρ) = (e^((α - 1)ρ) - 1)/(α - 1),   f(t) = (t^α - αt + α - 1)/(α(α - 1))

    Args:
      logratio: ρ = log π(y|x) - log π₀(y|x), summed over tokens, in nats.
      alpha: α, any number; 1/2 is in the middle, and TRL's `f_alpha_divergence_coef` unless set.

    Returns: S(ρ); 0 where π = π₀.
    Raises: nothing.
    Range: the exponent (α - 1)ρ is clamped at 80: what is beyond counts as 80, with no gradient. The slope is
      e^((α - 1)ρ).
    Optimum: with `dpo_loss`, S(ρ⁺) - S(ρ⁻) = logit(p)/β for a pair of which the first wins with probability p.
    Relatives: with α = 0 `forward_kl_link`, with α = 1 (a case of its own, and a smooth limit) `reverse_kl_link`.
    Elsewhere: in the paper's table α is our 1 - α. TRL's `alpha_divergence` is this one; within 1e-6 of α = 1 it
      takes ρ, and up to version 1.10 it left out the -1.
    Source: Wang et al., "Beyond Reverse KL", 2023 (arXiv:2309.16240).
    """
    (logratio,) = aligned("alpha_link", logratio=logratio)
    order = jnp.asarray(alpha - 1, logratio.dtype)
    apart = jnp.where(order == 0, 1, order)  # a division that is defined also where it is not used
    power = jnp.expm1(jnp.minimum(apart * logratio, _LARGEST_EXPONENT)) / apart
    return jnp.where(order == 0, logratio, power)
