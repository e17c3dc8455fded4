"""The loss of utilities with normal noise: a mean and a variance for each option, fitted to comparisons."""

from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned, one_each
from prefjax.rewards.gaussian import log_normal_cdf
from prefjax.types import Scalar


def thurstone_loss(
    chosen_mean: Float[Array, "*batch"],
    rejected_mean: Float[Array, "*batch"],
    chosen_variance: Float[Array, "*batch"],
    rejected_variance: Float[Array, "*batch"],
    *,
    target: Scalar | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy of comparisons under Thurstone's model of independent normal utilities.

        loss = -q log Φ(z) - (1 - q) log Φ(-z),   z = (μ⁺ - μ⁻)/√(σ⁺² + σ⁻²)

    Args:
      chosen_mean: μ⁺ of the option that won, or of the first one where `target` says how often.
      rejected_mean: μ⁻ of the other one.
      chosen_variance: σ⁺² > 0. Both 1/2: a reward model with the probit link in place of the logistic one.
      rejected_variance: σ⁻² > 0.
      target: q in [0, 1], the share of answers that prefer the first; one for all or one a pair.

    Returns: a loss in nats for each pair; log 2 where the means are equal.
    Raises: InputError where the shapes differ.
    Range: quadratic where badly wrong, z²/2, with slope |z|/√(σ⁺² + σ⁻²) in the means, without bound. Finite for
      means of ±1e4 and variances from 1e-6 on; at variance 0 it is not.
    Optimum: Φ(z) = q, where the loss is the entropy of q. (aμ + b, a²σ²) says the same for every a > 0 and b:
      `normalised_utilities` of `prefjax.rewards` picks one. Where no answers disagree variances go to 0: stop
      after a fixed number of steps, or price them.
    Relatives: `bradley_terry_loss` has logistic noise; with σ⁺² + σ⁻² = 1.702² the two probabilities differ by less
      than 0.01 everywhere. `thurstone_probability` of `prefjax.rewards` is its Φ(z).
    Elsewhere: Utility Engineering's code adds 1e-5 under the root and fits log σ², with torch's cross-entropy, whose
      logarithms end at -100.
    Source: Thurstone, "A Law of Comparative Judgment", 1927, case III; Mazeika et al., "Utility Engineering", 2025
      (arXiv:2502.08640).
    """
    chosen_mean, rejected_mean, chosen_variance, rejected_variance, q = aligned(
        "thurstone_loss",
        chosen_mean=chosen_mean,
        rejected_mean=rejected_mean,
        chosen_variance=chosen_variance,
        rejected_variance=rejected_variance,
        target=one_each(target, chosen_mean),
    )
    z = (chosen_mean - rejected_mean) * (chosen_variance + rejected_variance) ** -0.5
    return -q * log_normal_cdf(z) - (1 - q) * log_normal_cdf(-z)
