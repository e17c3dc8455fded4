"""How well the optimum of DPO would rank pairs, and how low a loss has to be until a pair is ranked right.

The reference decides most of it: where it makes the rejected completion c nats likelier, the optimum of a pair with
labels that agree needs more than those c nats.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def dpo_optimal_margin(
    chosen_reference_logp: Float[Array, "*batch"],
    rejected_reference_logp: Float[Array, "*batch"],
    preference: Float[Array, "*batch"],
    *,
    beta: Scalar,
    epsilon: Scalar = 1e-3,
) -> Float[Array, "*batch"]:
    """How much likelier the optimum of DPO makes the chosen completion than the rejected one.

        log π*(y⁺|x)/π*(y⁻|x) = log π₀(y⁺|x)/π₀(y⁻|x) + 1/β log(α/(1 - α))

    Args:
      chosen_reference_logp: log π₀(y⁺|x) in nats, summed over tokens (or averaged, as the paper also does).
      rejected_reference_logp: log π₀(y⁻|x), likewise.
      preference: α, the share of labels that prefer y⁺.
      beta: β > 0 of the loss.
      epsilon: α is held within [ε, 1 - ε], since the optimum of labels that always agree is infinite.

    Returns: nats for each pair.
    Raises: InputError where the shapes differ.
    Range: within the reference's margin ± log((1 - ε)/ε)/β, 6.9/β by default.
    Relatives: the optimum of `losses.dpo_loss`, and of its reward under a KL penalty; α = 1/2 is the reference. Of
      `losses.ipo_loss` it is the reference's margin plus (α - 1/2)/β.
    Source: Chen et al., "Preference Learning Algorithms Do Not Learn Preference Rankings", 2024, theorem 3.1
      (arXiv:2405.19534).
    """
    arrays = chosen_reference_logp, rejected_reference_logp, preference
    return _margin("dpo_optimal_margin", *arrays, beta, epsilon)


def idealised_ranking_accuracy(
    chosen_reference_logp: Float[Array, "*batch"],
    rejected_reference_logp: Float[Array, "*batch"],
    preference: Float[Array, "*batch"],
    *,
    beta: Scalar,
    epsilon: Scalar = 1e-3,
) -> Float[Array, "*batch"]:
    """Whether the optimum of DPO ranks a pair as its labels do.

        1 if log π₀(y⁺|x)/π₀(y⁻|x) + 1/β log(α/(1 - α)) > 0,   else 0

    Args:
      chosen_reference_logp: log π₀(y⁺|x) in nats, summed over tokens, or averaged.
      rejected_reference_logp: log π₀(y⁻|x), likewise.
      preference: α > 1/2, the share of labels that prefer y⁺.
      beta: β > 0 of the loss.
      epsilon: α is held within [ε, 1 - ε].

    Returns: 0 or 1 for each pair; the mean is the caller's, the paper's R*. R* less the `ranking_accuracy` of the
      policy is its alignment gap.
    Raises: InputError where the shapes differ.
    Range: 0 or 1, without gradient; nan where a log-probability is.
    Relatives: β → ∞ is the ranking of the reference, β → 0 is 1 wherever α > 1/2. A tie counts as wrong here, as in
      the paper, and half in `ranking_accuracy`.
    Source: Chen et al., "Preference Learning Algorithms Do Not Learn Preference Rankings", 2024, corollary 3.3
      (arXiv:2405.19534).
    """
    arrays = chosen_reference_logp, rejected_reference_logp, preference
    margin = _margin("idealised_ranking_accuracy", *arrays, beta, epsilon)
    return jnp.where(jnp.isnan(margin), jnp.nan, (margin > 0).astype(margin.dtype))


def dpo_ranking_threshold(
    chosen_reference_logp: Float[Array, "*batch"],
    rejected_reference_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    reference_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """The loss that DPO must reach on a pair until the policy ranks it right: how hard the pair is.

        π(y⁺|x) ≥ π(y⁻|x)  ⇔  loss ≤ -log σ(βγc),   c = log π₀(y⁻|x)/π₀(y⁺|x)

    Args:
      chosen_reference_logp: log π₀(y⁺|x) in nats, summed over tokens.
      rejected_reference_logp: log π₀(y⁻|x), likewise.
      beta: β > 0 of the loss.
      reference_weight: γ, how much of the reference the loss has: 1 in DPO, 0 without reference.

    Returns: nats for each pair; log 2 where the reference is undecided, about e^(-βγc) where it is badly wrong.
    Raises: InputError where the shapes differ.
    Range: slope at most βγ in each log-probability; ±1e4 nats are fine.
    Relatives: of `losses.dpo_loss` without smoothing. γ = 0: log 2 for every pair. Where the reference is right, a loss
      below log 2 says that the policy is.
    Source: Chen et al., "Preference Learning Algorithms Do Not Learn Preference Rankings", 2024, theorem 4.1
      (arXiv:2405.19534).
    """
    chosen, rejected = aligned(
        "dpo_ranking_threshold",
        chosen_reference_logp=chosen_reference_logp,
        rejected_reference_logp=rejected_reference_logp,
    )
    return -log_sigmoid(beta * reference_weight * (rejected - chosen))


def _margin(function, chosen_reference_logp, rejected_reference_logp, preference, beta, epsilon):
    chosen, rejected, alpha = aligned(
        function,
        chosen_reference_logp=chosen_reference_logp,
        rejected_reference_logp=rejected_reference_logp,
        preference=preference,
    )
    alpha = jnp.clip(alpha, epsilon, 1 - epsilon)
    return chosen - rejected + (jnp.log(alpha) - jnp.log1p(-alpha)) / beta
