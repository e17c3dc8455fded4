"""Rewards by comparison with reference answers to the same prompt: bounded, so that no gain is endless.

The last axis of `reference_rewards` holds M answers of the reference policy to the same prompt, scored by the same
model. A reference that is nan takes no part; a prompt without any has no reward, nan.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def par_rewards(
    rewards: Float[Array, "*batch"], reference_rewards: Float[Array, "*batch M"], *, slope: Scalar = 1.0
) -> Float[Array, "*batch"]:
    """Preference as reward (PAR): how probable it is that the answer beats one of the reference.

        R = 1/M Σₘ σ(k(r - r₀ₘ))

    The mean of the probabilities, not the probability of the mean.

    Args:
      rewards: r of a completion.
      reference_rewards: r₀ₘ of M answers of the reference policy; one is enough, the paper finds.
      slope: k > 0, per unit of reward; 1 reads r as the reward of a Bradley–Terry model.

    Returns: a reward in [0, 1] for each completion; 1/2 where it equals all references.
    Raises: InputError where the shapes disagree.
    Range: between 0 and 1 with slope at most k/4, so that Var R ≤ min(1/4, k²/16 Var r); rewards of ±1e4 are fine.
    Relatives: `relative_rewards` with shape σ(k·); the mean of `bradley_terry_probability` over references. k → ∞ is
      the share of references beaten. On r - 3 it is "slow growth, fast convergence", which the paper rejects.
      Group standardisation (`returns.grpo_advantages`) undoes any affine shaping, but not this.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025 (arXiv:2502.18770).
    """
    gaps, present = _gaps("par_rewards", rewards, reference_rewards)
    return _mean(jax.nn.sigmoid(slope * gaps), present)


def centred_rewards(
    rewards: Float[Array, "*batch"], reference_rewards: Float[Array, "*batch M"]
) -> Float[Array, "*batch"]:
    """How much better than the mean reference answer.

        R = 1/M Σₘ (r - r₀ₘ)

    Args:
      rewards: r of a completion.
      reference_rewards: r₀ₘ of M answers of the reference policy.

    Returns: a reward for each completion, free of the reward model's offset at the prompt, and unbounded.
    Raises: InputError where the shapes disagree.
    Range: linear, slope 1.
    Relatives: `relative_rewards` with no shape; 4/k `par_rewards` - 2/k for k → 0.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, a baseline (arXiv:2502.18770).
    """
    return _mean(*_gaps("centred_rewards", rewards, reference_rewards))


def relative_rewards(
    rewards: Float[Array, "*batch"],
    reference_rewards: Float[Array, "*batch M"],
    *,
    shape: Callable[[Float[Array, "*batch M"]], Float[Array, "*batch M"]],
) -> Float[Array, "*batch"]:
    """Any shape of the distance to reference answers, averaged over them.

        R = 1/M Σₘ f(r - r₀ₘ)

    Args:
      rewards: r of a completion.
      reference_rewards: r₀ₘ of M answers of the reference policy.
      shape: f, elementwise and static: `jnp.tanh`, `jnp.arctan`, `polynomial_sigmoid`, …

    Returns: a reward for each completion, free of the reward model's offset at the prompt. (The same f of r itself is
      as good only where 0 happens to be the level of the reference.)
    Raises: InputError where the shapes disagree.
    Range: that of f.
    Relatives: f = σ(k·) is `par_rewards`, the identity `centred_rewards`.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, the family that it compares
      (arXiv:2502.18770).
    """
    gaps, present = _gaps("relative_rewards", rewards, reference_rewards)
    return _mean(shape(gaps), present)


def log_sigmoid_centred_rewards(
    rewards: Float[Array, "*batch"],
    reference_rewards: Float[Array, "*batch M"],
    *,
    quantile: Scalar = 0.85,
    epsilon: Scalar = 1e-5,
) -> Float[Array, "*batch"]:
    """Log-sigmoid of the distance to a good reference answer (LSC): linear below it, saturated above.

        R = log σ(r - q),   q = r̄₀ + Φ⁻¹(0.85) (s + ε),   s² = Σₘ (r₀ₘ - r̄₀)²/(M - 1)

    Args:
      rewards: r of a completion.
      reference_rewards: r₀ₘ of M answers of the reference policy; of one, s = 0.
      quantile: which answer of the reference is good, in (0, 1), by a normal fit.
      epsilon: ε ≥ 0, in units of reward.

    Returns: a reward for each completion, at most 0.
    Raises: InputError where the shapes disagree.
    Range: unbounded below with slope at most 1; rewards of ±1e4 are fine.
    Relatives: `par_rewards` is bounded on both sides.
    Source: Wang et al., "Transforming and Combining Rewards for Aligning Large Language Models", 2024
      (arXiv:2402.00742); the quantile and s as in the code of Fu et al., 2025 (arXiv:2502.18770).
    """
    gaps, present = _gaps("log_sigmoid_centred_rewards", rewards, reference_rewards)
    centre = _mean(gaps, present)  # r - r̄₀
    count = jnp.sum(present, axis=-1)
    squares = jnp.sum(jnp.where(present, gaps - centre[..., None], 0.0) ** 2, axis=-1)
    variance = squares / jnp.maximum(count - 1, 1)
    some = variance > 0
    deviation = jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)
    return log_sigmoid(centre - jax.scipy.special.ndtri(quantile) * (deviation + epsilon))


def polynomial_sigmoid(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """A polynomial in place of the sigmoid: the same rise, without its tails.

        f(x) = Σₙ₌₀⁵ cₙ xⁿ for |x| < 5, else 0 or 1;   c least squares of σ at 100 points of [-5, 5]

    Args:
      x: a reward, or its distance to a reference one.

    Returns: a number from -0.011 to 1.011; never further than 0.018 from σ(x) within [-5, 5].
    Raises: nothing.
    Range: steps of 0.011 at ±5, beyond which the slope is 0; nan stays nan.
    Relatives: the `shape` of a `relative_rewards`; the sigmoid makes it `par_rewards`.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, an ablation (arXiv:2502.18770).
    """
    (x,) = aligned("polynomial_sigmoid", x=x)
    inner = jnp.clip(x, -5.0, 5.0)
    odd = inner * (_LINEAR + inner**2 * (_CUBIC + inner**2 * _QUINTIC))
    return jnp.where(x <= -5, 0.0, jnp.where(x >= 5, 1.0, 0.5 + odd))


_LINEAR, _CUBIC, _QUINTIC = 0.22878851177826, -0.010130912056492, 0.000202669169832


def _gaps(function, rewards, reference_rewards):
    """r - r₀ₘ, 0 for references that are nan; and which are not."""
    if jnp.shape(reference_rewards)[:-1] != jnp.shape(rewards) or jnp.ndim(reference_rewards) == 0:
        refuse(
            function,
            f"rewards has shape {jnp.shape(rewards)}, reference_rewards has shape {jnp.shape(reference_rewards)}",
            "some references for each reward: […] and […, M]", "Index, repeat or reshape first.",
        )  # fmt: skip
    (rewards,) = aligned(function, rewards=rewards)
    (reference_rewards,) = aligned(function, reference_rewards=reference_rewards)
    present = ~jnp.isnan(reference_rewards)
    return rewards[..., None] - jnp.where(present, reference_rewards, 0.0), present


def _mean(values, present):
    count = jnp.sum(present, axis=-1)
    total = jnp.sum(jnp.where(present, values, 0.0), axis=-1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
