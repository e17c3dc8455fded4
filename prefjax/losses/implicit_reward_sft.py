"""Imitation that keeps to the reference: the implicit reward of demonstrations, through the dual of an f-divergence.

Each loss here is of one form, with φ(r) = -f*(-r) of a divergence D_f:

    loss = V - φ(u + V),   u = β(log π(y|x) - log π₀(y|x))

whose mean over demonstrations is at its least where π minimises D_f(π‖π_E) + β KL(π‖π₀) for the demonstrator π_E,
and V(x) is the value of the prompt. Total variation has φ(r) = r: V cancels, β times `nll_loss` remains, and with V
the KL term has gone. V is given by the caller:

    0             the cheapest; it moves the optimum
    learned       a number for each prompt, which the same loss trains
    -mean of u    for `chi_square_sft_loss` the exact one, over the demonstrations of a prompt

φ has a domain, and runs into its end along a tangent: a demonstration that is hopelessly improbable keeps a slope.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar

EDGE = 0.05  # where the tangent begins, this far inside a domain
LARGEST_EXPONENT = 20.0


def chi_square_sft_loss(
    logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """Imitation in Pearson's χ² divergence, held to the reference: what is likely enough is pushed back.

        loss = V - (r - r²/4),   r = βρ + V,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of a demonstration, summed over its tokens, in nats.
      value: V(x), in units of reward; zeros for the cheapest form.
      beta: β > 0, in reward per nat away from π₀: with sums of 10 to 100 nats 0.01 to 0.1 keep |r| below 2.

    Returns: a loss for each demonstration; 0 where π = π₀ and V = 0.
    Raises: InputError where the shapes differ.
    Range: slope β(r/2 - 1) in ρ, which grows with the distance; it turns round at r = 2, and so holds π/π₀ at
      exp(2/β) where V = 0. Log-ratios of ±1e4 are fine.
    Optimum: with V at its best, argmin of D(π‖π_E) + β KL(π‖π₀), D = Σ π_E (π/π_E - 1)²: between demonstrator and
      reference.
    Relatives: with u = βρ and V = -mean u over the demonstrations of a prompt its mean is -(mean u - Var(u)/4). Its
      slope at r = 0 is that of β `nll_loss`, and `hellinger_sft_loss` and `jensen_shannon_sft_loss` share it.
    Source: Wang et al., "Implicit Reward as the Bridge: A Unified View of SFT and DPO Connections", 2025
      (arXiv:2507.00018), rederived from its claim; its own scaling may differ.
    """
    reward, value = _reward("chi_square_sft_loss", logratio, value, beta)
    return value - (reward - reward**2 / 4)


def hellinger_sft_loss(
    logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """Imitation in the squared Hellinger distance, held to the reference: what is likely already counts little.

        loss = V - r/(1 + r),   r = βρ + V,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of a demonstration, summed over its tokens, in nats.
      value: V(x), in units of reward; zeros for the cheapest form.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss for each demonstration; 0 where π = π₀ and V = 0.
    Raises: InputError where the shapes differ.
    Range: slope -β/(1 + r)² in ρ; below r = -0.95 φ is its tangent there, of slope 400. Log-ratios of ±1e4 are fine.
    Optimum: with V at its best, argmin of D(π‖π_E) + β KL(π‖π₀), D = Σ (√π - √π_E)².
    Relatives: its slope at r = 0 is that of β `nll_loss`; unlike `chi_square_sft_loss` it never turns round.
    Source: Wang et al., "Implicit Reward as the Bridge", 2025 (arXiv:2507.00018), rederived; scaling may differ.
    """
    reward, value = _reward("hellinger_sft_loss", logratio, value, beta)
    inside, below = _split(reward, EDGE - 1)
    return value - (inside / (1 + inside) + below / EDGE**2)


def jensen_shannon_sft_loss(
    logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """Imitation in the Jensen-Shannon divergence, held to the reference: an adversarial game in closed form.

        loss = V - log(2 - e^-r),   r = βρ + V,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of a demonstration, summed over its tokens, in nats.
      value: V(x), in units of reward; zeros for the cheapest form.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss for each demonstration; 0 where π = π₀ and V = 0, never below V - log 2.
    Raises: InputError where the shapes differ.
    Range: slope -β/(2e^r - 1) in ρ; below r = 0.05 - log 2 φ is its tangent there, of slope 19.5. Log-ratios of ±1e4
      are fine.
    Optimum: with V at its best, argmin of D(π‖π_E) + β KL(π‖π₀), D = KL(π‖m) + KL(π_E‖m), m = (π + π_E)/2.
    Relatives: its slope at r = 0 is that of β `nll_loss`.
    Source: Wang et al., "Implicit Reward as the Bridge", 2025 (arXiv:2507.00018), rederived; scaling may differ.
    """
    reward, value = _reward("jensen_shannon_sft_loss", logratio, value, beta)
    inside, below = _split(reward, EDGE - math.log(2))
    return value - (jnp.log(2 - jnp.exp(-inside)) + below / math.expm1(EDGE))


def reverse_kl_sft_loss(
    logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """Imitation in KL(π‖π_E), held to the reference: between two policies, on the straight line of their logits.

        loss = V + e^-(r + 1),   r = βρ + V,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of a demonstration, summed over its tokens, in nats.
      value: V(x), in units of reward; zeros for the cheapest form.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss for each demonstration; 1/e where π = π₀ and V = 0, where its slope is -β/e.
    Raises: InputError where the shapes differ.
    Range: slope -β e^-(r + 1) in ρ; below r = -21, where it is β e^20, φ is its tangent there. Log-ratios of ±1e4 are
      fine.
    Optimum: with V at its best π ∝ π_E^(1/(1+β)) π₀^(β/(1+β)).
    Relatives: `forward_kl_sft_loss` has the other direction.
    Source: Wang et al., "Implicit Reward as the Bridge", 2025 (arXiv:2507.00018), rederived; scaling may differ.
    """
    reward, value = _reward("reverse_kl_sft_loss", logratio, value, beta)
    inside, below = _split(reward, -LARGEST_EXPONENT - 1)
    return value - (below * math.exp(LARGEST_EXPONENT) - jnp.exp(-(inside + 1)))


def forward_kl_sft_loss(
    logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """Imitation in KL(π_E‖π), held to the reference: maximum likelihood with a price of KL, in its dual form.

        loss = V - 1 - log r,   r = βρ + V,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      logratio: ρ of a demonstration, summed over its tokens, in nats.
      value: V(x) > 0, in units of reward: with zeros training would begin at the edge of the logarithm.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss for each demonstration; 0 where π = π₀ and V = 1.
    Raises: InputError where the shapes differ.
    Range: slope -β/r in ρ; below r = 0.05 φ is its tangent there, of slope 20. Log-ratios of ±1e4 are fine.
    Optimum: with V at its best, argmin of KL(π_E‖π) + β KL(π‖π₀).
    Relatives: `nll_loss` has the same divergence without its price, and π_E for its optimum.
    Source: Wang et al., "Implicit Reward as the Bridge", 2025 (arXiv:2507.00018), rederived; scaling may differ.
    """
    reward, value = _reward("forward_kl_sft_loss", logratio, value, beta)
    inside, below = _split(reward, EDGE)
    return value - (1 + jnp.log(inside) + below / EDGE)


def _reward(
    function: str, logratio: Float[Array, "*batch"], value: Float[Array, "*batch"], beta: Scalar
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    logratio, value = aligned(function, logratio=logratio, value=value)
    return beta * logratio + value, value


def _split(
    reward: Float[Array, "*batch"], edge: Scalar
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """What φ sees, and how far below its edge the tangent carries on."""
    return jnp.maximum(reward, edge), jnp.minimum(reward - edge, 0.0)
