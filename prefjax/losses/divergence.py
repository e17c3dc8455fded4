"""How far a policy is from its reference, and how undecided it is, token by token.

An estimate of a divergence has a value and a gradient, and the one being right says nothing of the other. Here y
is a token drawn from π at a fixed prefix, k = log π(y) - log π₀(y), and E the mean over y:

    function      value           E[value]       E[∇value], which is what a loss would follow
    kl_k1         k               KL(π‖π₀)       0: the reference has no effect at all
    kl_k2         k²/2            biased         ∇KL(π‖π₀), exactly
    kl_k3         e⁻ᵏ - 1 + k     KL(π‖π₀)       ∇KL(π₀‖π), the other direction
    kl_penalty    ρ(e⁻ᵏ - 1 + k)  KL(π‖π₀)       ∇KL(π‖π₀), exactly, off-policy as well
    kl_exact      Σ π k           KL(π‖π₀)       ∇KL(π‖π₀), from all logits

None of them sees that a token changes which prefixes come later. That part belongs to the reward:
`rewards.kl_shaped_rewards` under a policy gradient follows the divergence of whole sequences.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned

# Where k is below this, e⁻ᵏ counts as e²⁰ and has no gradient; it would overflow at -88.
MIN_LOG_RATIO = -20.0


def kl_k1(logps: Float[Array, "*batch"], reference_logps: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The log-ratio itself: unbiased for KL(π‖π₀), often negative, and useless as a loss.

        k = log π(y) - log π₀(y),   y ~ π

    Args:
      logps: log π of each token [..., T], in nats.
      reference_logps: log π₀ of the same tokens.

    Returns: nats for each token.
    Raises: InputError where the shapes differ.
    Range: linear, with slope 1.
    Optimum: none: its gradient has mean 0, whatever π₀ is. Charge it to the reward instead
      (`rewards.kl_shaped_rewards`), where it is exact for whole sequences.
    Relatives: its mean over samples is `kl_exact`; so is that of `kl_k3`, with less variance near π₀.
    Elsewhere: Tunix adds it to the loss of GRPO by default, with β = 0.04: that is no penalty at all.
    Source: Schulman, "Approximating KL Divergence", 2020; the gradient is derived.
    """
    logps, reference_logps = aligned("kl_k1", logps=logps, reference_logps=reference_logps)
    return logps - reference_logps


def kl_k2(logps: Float[Array, "*batch"], reference_logps: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Half the squared log-ratio: a biased value with, on-policy, the right gradient.

        k²/2,   k = log π(y) - log π₀(y),   y ~ π

    Args:
      logps: log π of each token [..., T], in nats.
      reference_logps: log π₀ of the same tokens.

    Returns: nats² for each token, never negative.
    Raises: InputError where the shapes differ.
    Range: a square: the slope |k| grows with the log-ratio.
    Optimum: on-policy π₀: its gradient's mean is ∇KL(π‖π₀).
    Relatives: the mean gradient of `kl_penalty` and of `kl_exact`; the value is that of `kl_k3` up to k³/6.
    Elsewhere: verl's "k3+" has the value of `kl_k3` with this gradient.
    Source: Schulman, "Approximating KL Divergence", 2020; the gradient is derived.
    """
    logps, reference_logps = aligned("kl_k2", logps=logps, reference_logps=reference_logps)
    return (logps - reference_logps) ** 2 / 2


def kl_k3(logps: Float[Array, "*batch"], reference_logps: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The estimate of GRPO: an unbiased value that is never negative, with the gradient of another divergence.

        e⁻ᵏ - 1 + k,   k = log π(y) - log π₀(y),   y ~ π

    Args:
      logps: log π of each token [..., T], in nats.
      reference_logps: log π₀ of the same tokens.

    Returns: nats for each token.
    Raises: InputError where the shapes differ.
    Range: exponential where k < 0; for k < -20 it counts as k = -20, without gradient.
    Optimum: π₀, but by another way: its gradient's mean is ∇KL(π₀‖π), not ∇KL(π‖π₀), so beside a reward it finds
      another policy than π₀ exp(r/β).
    Relatives: its mean is `kl_exact`, as of `kl_k1`. With the right gradient: `kl_penalty`.
    Elsewhere: what GRPO's paper adds to the loss, and TRL before 1.16. verl cuts k off at ±20 and the value at ±10.
    Source: Schulman, "Approximating KL Divergence", 2020; Shao et al., "DeepSeekMath", 2024, eq. 4
      (arXiv:2402.03300); the gradient is derived.
    """
    logps, reference_logps = aligned("kl_k3", logps=logps, reference_logps=reference_logps)
    k = jnp.maximum(logps - reference_logps, MIN_LOG_RATIO)
    return jnp.expm1(-k) + k


def kl_penalty(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    reference_logps: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """A penalty whose mean is KL(π‖π₀) and whose gradient's mean is that divergence's gradient.

        ρ (e⁻ᵏ - 1 + k),   k = log π(y) - log π₀(y),   ρ = π(y)/π_b(y),   y ~ π_b

    The gradient also goes through ρ: it is the part that `kl_k3` lacks, so that on-policy, where ρ = 1, the
    values agree and the gradients do not.

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      reference_logps: log π₀ of the same tokens.

    Returns: nats for each token, never negative.
    Raises: InputError where the shapes differ.
    Range: exponential where k < 0; k < -20 and log ρ beyond ±20 count as those, without gradient.
    Optimum: π₀; beside a reward of one token, π₀ exp(r/β).
    Relatives: on-policy the value is `kl_k3`, the mean gradient that of `kl_k2`; both means are those of `kl_exact`.
    Elsewhere: TRL's GRPO with `use_bias_correction_kl`, True by default since 1.16.
    Source: derived; DeepSeek-AI, "DeepSeek-V3.2", 2025, has it too (arXiv:2512.02556).
    """
    logps, behaviour_logps, reference_logps = aligned(
        "kl_penalty", logps=logps, behaviour_logps=behaviour_logps, reference_logps=reference_logps
    )
    log_ratio = logps - jax.lax.stop_gradient(behaviour_logps)
    return jnp.exp(jnp.clip(log_ratio, MIN_LOG_RATIO, -MIN_LOG_RATIO)) * kl_k3(logps, reference_logps)


def kl_exact(
    logits: Float[Array, "*batch V"], reference_logits: Float[Array, "*batch V"]
) -> Float[Array, "*batch"]:
    """The divergence of two next-token distributions, without sampling.

        KL(π‖π₀) = Σ_y π(y) (log π(y) - log π₀(y))

    Args:
      logits: of π at the sampling temperature; a constant added to all of them changes nothing. -inf excludes a
        token, which then has to be excluded from π only, or from both.
      reference_logits: of π₀.

    Returns: nats for each prefix, never negative, with its true gradient.
    Raises: InputError where the shapes differ.
    Range: finite for any finite logits; the slope is at most π(y)|k - KL|.
    Optimum: π₀; beside a reward of one token, π₀ exp(r/β).
    Relatives: the mean of `kl_k1`, `kl_k3` and `kl_penalty` over samples. With uniform π₀ it is log V less `entropy`.
    Source: Kullback and Leibler, "On Information and Sufficiency", 1951.
    """
    logits, reference_logits = aligned("kl_exact", logits=logits, reference_logits=reference_logits)
    possible = logits > -jnp.inf
    logps = jnp.where(possible, jax.nn.log_softmax(logits), 0.0)
    reference_logps = jnp.where(possible, jax.nn.log_softmax(reference_logits), 0.0)
    return jnp.sum(jax.nn.softmax(logits) * (logps - reference_logps), axis=-1)


def entropy(logits: Float[Array, "*batch V"]) -> Float[Array, "*batch"]:
    """How undecided a next-token distribution is.

        H(π) = -Σ_y π(y) log π(y)

    Args:
      logits: of π at the sampling temperature; -inf excludes a token.

    Returns: nats for each prefix: 0 where one token is certain, log V where all are as likely.
    Raises: nothing.
    Range: from 0 to log V; finite for any finite logits.
    Optimum: no loss; `entropy_bonus` makes it one.
    Relatives: log V less `kl_exact` to the uniform distribution.
    Source: Shannon, "A Mathematical Theory of Communication", 1948.
    """
    (logits,) = aligned("entropy", logits=logits)
    logps = jnp.where(logits > -jnp.inf, jax.nn.log_softmax(logits), 0.0)
    return -jnp.sum(jax.nn.softmax(logits) * logps, axis=-1)
