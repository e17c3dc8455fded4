"""Policy gradients with one ratio a sequence: the geometric mean of its tokens', which moves much less than theirs.

`Weighted.of` the losses of sequences is the average that goes with them. For the product instead of the mean, as
RLOO in TRL has it, give `ppo_clip_loss` sums over tokens: of long completions it leaves the clip soon.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.losses.policy_gradient import MAX_LOG_RATIO, ppo_clip_loss
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def gspo_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    epsilon_low: Scalar = 3e-4,
    epsilon_high: Scalar = 4e-4,
) -> Float[Array, "*batch"]:
    """Group sequence policy optimisation: PPO's clip on one ratio a sequence.

        loss = -min(s A, clip(s, 1 - ε_low, 1 + ε_high) A),   s = exp(1/|y| Σₜ log π(yₜ|·)/π_b(yₜ|·))

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: A of each sequence, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      epsilon_low: ε_low. The ratio is a mean of logs, so it moves much less than that of a token.
      epsilon_high: ε_high.

    Returns: a surrogate for each sequence, to be averaged over sequences.
    Raises: InputError where the shapes disagree.
    Range: finite everywhere; a mean log-ratio beyond ±20 counts as ±20, without gradient.
    Optimum: as of `ppo_clip_loss`, for the ratio of sequences.
    Relatives: `ppo_clip_loss` of the mean log-ratio; for one token a sequence the same as that. `gspo_token_loss` has
      the same value, and the same gradient where the advantage is one for all tokens. At s = 1 the gradient of a
      token is that of `reinforce_loss` over |y|.
    Elsewhere: TRL reaches it with `importance_sampling_level="sequence"` and `loss_type="grpo"`, ε = 0.2 unless set;
      with its averages over tokens sequences weigh by length, which is not GSPO. verl's "gspo" is `gspo_token_loss`.
    Source: Zheng et al., "Group Sequence Policy Optimization", 2025, eq. 5 and 7 (arXiv:2507.18071).
    """
    return _gspo("gspo_loss", logps, behaviour_logps, advantages, mask, epsilon_low, epsilon_high)


def gspo_token_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch T"],
    mask: Shaped[Array, "*batch T"],
    *,
    epsilon_low: Scalar = 3e-4,
    epsilon_high: Scalar = 4e-4,
) -> Float[Array, "*batch T"]:
    """GSPO token by token: the value of the sequence's ratio, the gradient of the token's own.

        lossₜ = -min(sₜ Aₜ, clip(sₜ, 1 - ε_low, 1 + ε_high) Aₜ),   sₜ = sg(s) π(yₜ|·)/sg(π(yₜ|·))
        s = exp(1/|y| Σₜ log π(yₜ|·)/π_b(yₜ|·)),   sg: no gradient

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      epsilon_low: ε_low.
      epsilon_high: ε_high.

    Returns: a surrogate for each token.
    Raises: InputError where the shapes differ.
    Range: finite everywhere; a mean log-ratio beyond ±20 counts as ±20, without gradient.
    Optimum: as of `ppo_clip_loss`, for the ratio of sequences.
    Relatives: with one advantage a sequence, `Weighted.sequences` of this has the value and the gradient of
      `gspo_loss`. At s = 1 the gradient is that of `reinforce_loss`.
    Elsewhere: verl's "gspo" is this, with the log of the ratio cut off at 10.
    Source: Zheng et al., "Group Sequence Policy Optimization", 2025, eq. 13 and 14 (arXiv:2507.18071).
    """
    logps, behaviour_logps, advantages, mask = aligned(
        "gspo_token_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages, mask=mask
    )
    mean = jax.lax.stop_gradient(_mean(logps - behaviour_logps, mask))[..., None]
    log_ratio = mean + logps - jax.lax.stop_gradient(logps)
    return ppo_clip_loss(
        log_ratio, jnp.zeros_like(logps), advantages, epsilon_low=epsilon_low, epsilon_high=epsilon_high
    )


def gmpo_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    epsilon_low: Scalar = 0.4,
    epsilon_high: Scalar = 0.4,
) -> Float[Array, "*batch"]:
    """Geometric-mean policy optimisation: tokens are clipped first, in log space, and then averaged.

        loss = -A exp(1/|y| Σₜ d̃ₜ),   d̃ₜ = min(dₜ, clip(dₜ, -ε_low, ε_high)) where A > 0, else max(…),
        dₜ = log π(yₜ|·)/π_b(yₜ|·)

    The gradient in log π is -A s/|y| for tokens that are inside, and 0 where A > 0 and dₜ > ε_high, and where A < 0
    and dₜ < -ε_low.

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: A of each sequence, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite. Times
        `high_entropy_mask`, the others are neither learned from nor averaged over.
      epsilon_low: ε_low in nats: ratios down to exp(-ε_low).
      epsilon_high: ε_high in nats.

    Returns: a surrogate for each sequence, to be averaged over sequences; -A without any token.
    Raises: InputError where the shapes disagree.
    Range: finite everywhere; a mean beyond ±20 counts as ±20, without gradient. For A > 0 the slope of a token is at
      most A exp(ε_high)/|y|; for A < 0 it is not bounded by the clip.
    Optimum: as of `ppo_clip_loss`, for ratios of tokens.
    Relatives: with ε → ∞ it is `gspo_loss` without a clip, -sA. At π = π_b the gradient of a token is that of
      `reinforce_loss` over |y|.
    Elsewhere: TRL's GMPOTrainer adds its KL term without the correction of `kl_penalty`, whatever
      `use_bias_correction_kl` says.
    Source: Zhao et al., "Geometric-Mean Policy Optimization", 2025 (arXiv:2507.20673).
    """
    logps, behaviour_logps, mask = aligned(
        "gmpo_loss", logps=logps, behaviour_logps=behaviour_logps, mask=mask
    )
    log_ratios = logps - jax.lax.stop_gradient(behaviour_logps)
    _, advantages = aligned("gmpo_loss", logps=jnp.sum(log_ratios, axis=-1), advantages=advantages)
    advantages = jax.lax.stop_gradient(advantages)
    # min(d, clip(d, -ε_low, ε_high)) is min(d, ε_high), and so for the maximum.
    better = advantages[..., None] > 0
    one_sided = jnp.where(
        better, jnp.minimum(log_ratios, epsilon_high), jnp.maximum(log_ratios, -epsilon_low)
    )
    mean = jnp.clip(_mean(one_sided, mask), -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return -advantages * jnp.exp(mean)


def luspo_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    epsilon_low: Scalar = 2e-3,
    epsilon_high: Scalar = 2.5e-3,
) -> Float[Array, "*batch"]:
    """Length-unbiased sequence policy optimisation: GSPO times the number of tokens.

        loss = -|y| min(s A, clip(s, 1 - ε_low, 1 + ε_high) A),   s = exp(1/|y| Σₜ log π(yₜ|·)/π_b(yₜ|·))

    GSPO's gradient holds 1/|y|, so that a token of a long sequence counts less; here every token counts alike.

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: A of each sequence, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      epsilon_low: ε_low.
      epsilon_high: ε_high.

    Returns: a surrogate for each sequence, to be averaged over sequences; 0 without any token.
    Raises: InputError where the shapes disagree.
    Range: finite everywhere; a mean log-ratio beyond ±20 counts as ±20, without gradient.
    Optimum: as of `ppo_clip_loss`, for the ratio of sequences.
    Relatives: |y| times `gspo_loss`. At s = 1 the gradient of a token is that of `reinforce_loss`, so with an unbiased
      baseline it is the exact policy gradient, which that of `gspo_loss` is not where lengths differ.
    Elsewhere: TRL's `loss_type="luspo"` is this only with `importance_sampling_level="sequence"`; its default sums
      `ppo_clip_loss` of tokens, with ε = 0.2.
    Source: "Length-Unbiased Sequence Policy Optimization", 2026 (arXiv:2602.05261).
    """
    losses = _gspo("luspo_loss", logps, behaviour_logps, advantages, mask, epsilon_low, epsilon_high)
    return losses * jnp.sum(mask != 0, axis=-1)


def _gspo(function, logps, behaviour_logps, advantages, mask, epsilon_low, epsilon_high):
    logps, behaviour_logps, mask = aligned(function, logps=logps, behaviour_logps=behaviour_logps, mask=mask)
    log_ratio = _mean(logps - jax.lax.stop_gradient(behaviour_logps), mask)
    log_ratio, advantages = aligned(function, logps=log_ratio, advantages=advantages)
    return ppo_clip_loss(
        log_ratio, jnp.zeros_like(log_ratio), advantages, epsilon_low=epsilon_low, epsilon_high=epsilon_high
    )


def _mean(values, mask):
    """Over the tokens of a sequence; 0 where it has none."""
    present = mask != 0
    return jnp.sum(jnp.where(present, values, 0.0), axis=-1) / jnp.maximum(jnp.sum(present, axis=-1), 1)
