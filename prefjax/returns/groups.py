"""Group baselines: a sample is as good as its reward compared with those of other samples of the same prompt.

The last axis is the group, G samples of one prompt. A reward that could not be computed is nan: it takes no part
in what the others are compared with, and its own advantage is 0. Where nothing can be compared (a group of one,
one reward that is no nan, all rewards equal) advantages are 0. Every token of a sample gets the sample's.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import require
from prefjax.types import Scalar


def grpo_advantages(
    rewards: Float[Array, "*batch G"], *, ddof: Scalar = 1, epsilon: Scalar = 1e-4
) -> Float[Array, "*batch G"]:
    """Group relative advantages: how many standard deviations above the group's mean.

        Aᵢ = (Rᵢ - R̄) / (s + ε),   s² = Σⱼ (Rⱼ - R̄)² / (G - ddof)

    A positive factor and a constant in the rewards change nothing, up to ε: prompts on which samples hardly
    differ count as much as others, which biases the policy gradient. `dr_grpo_advantages` leaves s out.

    Args:
      rewards: Rᵢ.
      ddof: 1 in TRL, verl, OpenRLHF and Tunix; 0 in EasyDeL and open-instruct, where advantages of two samples
        are ±1 and not ±0.71. The paper does not say.
      epsilon: ε, in units of reward: 1e-4 in TRL and EasyDeL, 1e-6 in verl and Tunix, 1e-8 in open-instruct,
        1e-9 in OpenRLHF.

    Returns: advantages without unit. (verl leaves the reward of a group of one as it is; here it gives 0.)
    Raises: nothing.
    Source: Shao et al., "DeepSeekMath", 2024, section 4.1.2 (arXiv:2402.03300).
    """
    centred, valid = _centred(rewards)
    count = jnp.sum(valid, axis=-1, keepdims=True)
    return _over(centred, _root(_variance(centred, count, ddof)) + epsilon)


def dr_grpo_advantages(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch G"]:
    """ "GRPO done right": how much above the group's mean.

        Aᵢ = Rᵢ - R̄

    This is `rloo_advantages` times (G - 1)/G; TRL's `scale_rewards="none"`.

    Args:
      rewards: Rᵢ.

    Returns: advantages in units of reward, of mean 0 over the group.
    Raises: nothing.
    Source: Liu et al., "Understanding R1-Zero-Like Training", 2025 (arXiv:2503.20783).
    """
    return _centred(rewards)[0]


def batch_scaled_advantages(
    rewards: Float[Array, "*batch G"], standard_deviation: Scalar, *, epsilon: Scalar = 1e-4
) -> Float[Array, "*batch G"]:
    """Centred by the group, scaled by the whole batch: prompts on which samples differ more count more.

        Aᵢ = (Rᵢ - R̄) / (s + ε),   R̄ of the group, s of the batch

    TRL's `scale_rewards="batch"`.

    Args:
      rewards: Rᵢ.
      standard_deviation: s, of all the rewards of the optimiser step: `reward_standard_deviation`.
      epsilon: ε, in units of reward.

    Returns: advantages without unit.
    Raises: nothing.
    Source: Liu et al., "Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning" (Lite PPO), 2025
      (arXiv:2508.08221).
    """
    return _over(_centred(rewards)[0], standard_deviation + epsilon)


def reward_standard_deviation(rewards: Float[Array, "..."], *, ddof: Scalar = 1) -> Float[Array, ""]:
    """The standard deviation of all rewards given, whatever their groups.

        s = (Σᵢ (Rᵢ - R̄)² / (n - ddof))^1/2

    Args:
      rewards: of any shape: those of a whole optimiser step. nan is left out.
      ddof: 1 as in TRL, or 0.

    Returns: s in units of reward; 0 where there are no two rewards, or no two different ones.
    Raises: nothing.
    Source: Student, "The Probable Error of a Mean", 1908.
    """
    centred, valid = _centred(jnp.reshape(rewards, -1))
    return _root(_variance(centred, jnp.sum(valid, axis=-1, keepdims=True), ddof))[0]


def rloo_advantages(rewards: Float[Array, "*batch G"]) -> Float[Array, "*batch G"]:
    """Leave-one-out: each sample against the mean of the others, which is independent of it.

        Aᵢ = Rᵢ - 1/(G - 1) Σⱼ≠ᵢ Rⱼ

    So the policy gradient stays unbiased. TRL subtracts β log π(y|x)/π₀(y|x) from the reward first.

    Args:
      rewards: Rᵢ.

    Returns: advantages in units of reward, of mean 0 over the group.
    Raises: nothing.
    Source: Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019; Ahmadian et al., "Back to
      Basics", 2024 (arXiv:2402.14740).
    """
    centred, valid = _centred(rewards)
    count = jnp.sum(valid, axis=-1, keepdims=True)
    return centred * (count / jnp.maximum(count - 1, 1))


def opo_advantages(
    rewards: Float[Array, "*batch G"], lengths: Shaped[Array, "*batch G"]
) -> Float[Array, "*batch G"]:
    """On-policy with the optimal baseline: the mean of the group, weighed by length.

        Aᵢ = Rᵢ - Σⱼ nⱼ Rⱼ / Σⱼ nⱼ

    The baseline of least variance if the squared norm of a sample's gradient grows with its length.

    Args:
      rewards: Rᵢ.
      lengths: nᵢ, tokens of each sample.

    Returns: advantages in units of reward.
    Raises: InputError where the shapes differ.
    Source: Hao et al., "On-Policy RL with Optimal Reward Baseline", 2025 (arXiv:2505.23585).
    """
    _same_shape("opo_advantages", rewards=rewards, lengths=lengths)
    centred, valid = _centred(rewards)
    weights = jnp.where(valid, lengths, 0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shift = jnp.sum(weights * centred, axis=-1, keepdims=True) / jnp.maximum(total, 1)
    return jnp.where(valid & (total > 0), centred - shift, 0.0)


def remax_advantages(
    rewards: Float[Array, "*batch G"], greedy_rewards: Float[Array, "*batch"]
) -> Float[Array, "*batch G"]:
    """ReMax: each sample against the answer that greedy decoding gives, the only one that needs no group.

        Aᵢ = Rᵢ - R(greedy answer)

    Args:
      rewards: Rᵢ of samples.
      greedy_rewards: of the greedy completion of the same prompt. Where it is nan, advantages are 0.

    Returns: advantages in units of reward.
    Raises: InputError where the shapes disagree.
    Source: Li et al., "ReMax", 2023 (arXiv:2310.10505).
    """
    require(
        jnp.shape(rewards)[:-1] == jnp.shape(greedy_rewards), "remax_advantages",
        f"rewards has shape {jnp.shape(rewards)}, greedy_rewards {jnp.shape(greedy_rewards)}",
        "one greedy answer for each group: […, G] and […]", "Index or reshape first.",
    )  # fmt: skip
    difference = _wide(rewards) - _wide(greedy_rewards)[..., None]
    return jnp.where(jnp.isnan(difference), 0.0, difference)


def _centred(rewards):
    """Rᵢ - R̄, exactly 0 where rewards are equal or nan; and which are no nan."""
    rewards = _wide(rewards)
    valid = ~jnp.isnan(rewards)
    rewards = jnp.where(valid, rewards, 0.0)
    count = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
    centred = rewards - jnp.sum(rewards, axis=-1, keepdims=True) / count
    # The mean of equal numbers is off by a rounding error, which a small ε would divide into a signal.
    most = jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    least = jnp.min(jnp.where(valid, rewards, jnp.inf), axis=-1, keepdims=True, initial=jnp.inf)
    return jnp.where(valid & (most > least), centred, 0.0), valid


def _variance(centred, count, ddof):
    """In a second pass over what is centred already: a difference of squares would cancel."""
    degrees = count - ddof
    squares = jnp.sum(centred**2, axis=-1, keepdims=True)
    return jnp.where(degrees > 0, squares / jnp.where(degrees > 0, degrees, 1), 0.0)


def _over(centred, scale):
    """0/0 is 0: with ε = 0, rewards that are all equal."""
    return centred / jnp.where(scale == 0, 1.0, scale)


def _root(variance):
    """√, with gradient 0 at 0."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _wide(array):
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))


def _same_shape(function, **arrays):
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    got = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
    require(len(set(shapes.values())) == 1, function, got, "one shape for all", "Index or reshape first.")
