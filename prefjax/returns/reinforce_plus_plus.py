"""REINFORCE++: no group decides the scale of an advantage, the whole batch of tokens does."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.returns.advantage import discounted_returns
from prefjax.returns.comparing import centred, same_shape
from prefjax.returns.whitening import whitened
from prefjax.types import Scalar


def reinforce_plus_plus_advantages(
    rewards: Float[Array, "*batch T"],
    discounts: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    ddof: Scalar = 1,
    epsilon: Scalar = 1e-8,
) -> Float[Array, "*batch T"]:
    """What a token and those after it earned, whitened over all tokens of the batch.

        Aₜ = (Gₜ - Ḡ) / √(s² + ε),   Gₜ = rₜ + γₜ Gₜ₊₁

    Args:
      rewards: rₜ of each token: `rewards.kl_shaped_rewards` has the score at the last one and the price of KL.
      discounts: γₜ; 0 at the last token, and whatever behind it.
      mask: 1 for tokens, 0 for padding, which may hold anything finite.
      ddof: 1 or 0, of s.
      epsilon: ε, in squared units of reward.

    Returns: advantages without unit, 0 where the mask is.
    Raises: InputError where the shapes differ.
    Range: finite; 0 where all returns are equal.
    Relatives: `whitened` of `discounted_returns`.
    Elsewhere: verl's "reinforce_plus_plus", which is this with ddof = 1.
    Source: Hu et al., "REINFORCE++", 2025 (arXiv:2501.03262).
    """
    same_shape("reinforce_plus_plus_advantages", rewards=rewards, discounts=discounts, mask=mask)
    rewards, discounts = (jnp.where(mask != 0, array, 0.0) for array in (rewards, discounts))
    returns = discounted_returns(rewards, discounts, jnp.zeros_like(rewards[..., 0]))
    return whitened(returns, mask, ddof=ddof, epsilon=epsilon)


def reinforce_plus_plus_baseline_advantages(
    rewards: Float[Array, "*batch G"],
    mask: Shaped[Array, "*batch G T"],
    *,
    ddof: Scalar = 1,
    epsilon: Scalar = 1e-8,
) -> Float[Array, "*batch G T"]:
    """Centred by the group, whitened over all tokens of the batch.

        Aᵢₜ = (dᵢ - d̄) / √(s² + ε),   dᵢ = Rᵢ - R̄;   d̄ and s over all tokens: a sample counts as often as it is long

    Args:
      rewards: Rᵢ of the G samples of each prompt. nan takes no part.
      mask: 1 for tokens of each sample.
      ddof: 1 or 0, of s.
      epsilon: ε, in squared units of reward.

    Returns: advantages without unit for each token, 0 where the mask is, and where the reward is nan.
    Raises: InputError where the shapes disagree.
    Range: finite; 0 where in no group rewards differ.
    Relatives: where all samples are as long, and with ddof = 0, `batch_scaled_advantages` with s over centred rewards.
    Elsewhere: verl's "reinforce_plus_plus_baseline"; OpenRLHF's too.
    Source: Hu et al., "REINFORCE++", 2025 (arXiv:2501.03262).
    """
    same_shape("reinforce_plus_plus_baseline_advantages", rewards=rewards, sequences_of_mask=mask[..., 0])
    differences, valid = centred(rewards)
    learned = (mask != 0) & valid[..., None]
    return whitened(jnp.broadcast_to(differences[..., None], mask.shape), learned, ddof=ddof, epsilon=epsilon)
