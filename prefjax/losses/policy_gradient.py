"""Policy gradients on tokens: surrogates whose gradient makes likelier what did better than expected.

All take advantages as they are: no baseline, no whitening, no KL inside. Padding may hold anything finite; the
average masks it, and which average is half of a method's name: `Weighted.sequences` is GRPO's,
`Weighted.tokens` over the whole optimiser step DAPO's and CISPO's, `Weighted.constant` Dr. GRPO's.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar

# A log-ratio beyond this counts as this, and has no gradient: e^20 is 5e8, and what clipping multiplies by 0 has
# to be finite first.
MAX_LOG_RATIO = 20.0


def reinforce_loss(
    logps: Float[Array, "*batch"], advantages: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """REINFORCE: the score function, weighed by the advantage.

        lossₜ = -sg(Aₜ) log π(yₜ | x, y₍<ₜ₎),   y ~ π,   sg: no gradient

    On-policy only. The mean gradient, summed over the tokens of a sequence, is -∇E[R] for Aₜ = R - b with any b
    that does not depend on yₜ. The value is nothing to look at.

    Args:
      logps: log π of each token [..., T] (or of each sequence [...]), in nats.
      advantages: Aₜ, in units of reward; no gradient flows through them.

    Returns: a surrogate for each token.
    Raises: InputError where the shapes differ.
    Source: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
      Learning", 1992.
    """
    logps, advantages = aligned("reinforce_loss", logps=logps, advantages=advantages)
    return -jax.lax.stop_gradient(advantages) * logps


def ppo_clip_loss(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    *,
    epsilon_low: Scalar = 0.2,
    epsilon_high: Scalar = 0.2,
    max_ratio: Scalar = jnp.inf,
) -> Float[Array, "*batch"]:
    """Proximal policy optimisation's clipped surrogate; also that of GRPO, DAPO, Dr. GRPO and RLOO in TRL.

        lossₜ = -min(min(ρₜ, c) Aₜ, clip(ρₜ, 1 - ε_low, 1 + ε_high) Aₜ),   ρₜ = π(yₜ|·) / π_b(yₜ|·)

    The gradient in log π is -ρA, and 0 where A > 0 and ρ > 1 + ε_high, where A < 0 and ρ < 1 - ε_low, and
    where A < 0 and ρ > c. At ρ = 1 it is that of `reinforce_loss`.

    Args:
      logps: log π of each token [..., T], in nats. RLOO in TRL clips the ratio of whole sequences: give sums [...].
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      epsilon_low: ε_low in [0, 1].
      epsilon_high: ε_high >= 0; DAPO's "clip-higher" has 0.28 beside 0.2.
      max_ratio: c > 1 + ε_high, off unless given. Where A < 0 the plain surrogate is unbounded; this bounds it by
        c|A|. It is TRL's `delta` (INTELLECT-2: 4) and verl's `clip_ratio_c` (dual clip: 3).

    Returns: a surrogate for each token; -A at ρ = 1. Log-ratios beyond ±20 count as ±20.
    Raises: InputError where the shapes differ.
    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7 (arXiv:1707.06347). Two
      epsilons: Yu et al., "DAPO", 2025, eq. 10 (arXiv:2503.14476). Dual clip: Ye et al., "Mastering Complex
      Control in MOBA Games", 2020, eq. 5 (arXiv:1912.09729).
    """
    logps, behaviour_logps, advantages = aligned(
        "ppo_clip_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages
    )
    ratio = _ratio(logps - jax.lax.stop_gradient(behaviour_logps))
    return _clipped(ratio, advantages, epsilon_low, epsilon_high, max_ratio)


def cispo_loss(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    *,
    max_ratio: Scalar,
    min_ratio: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Clipped importance sampling: the weight is clipped, and no token loses its gradient.

        lossₜ = -sg(clip(ρₜ, ρ_min, ρ_max)) Aₜ log π(yₜ | x, y₍<ₜ₎),   ρₜ = π(yₜ|·) / π_b(yₜ|·),   sg: no gradient

    The gradient in log π is -clip(ρ)A, on purpose not that of the value. Without sg, as in EasyDeL, it would have
    another sign wherever log π < -1.

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      max_ratio: ρ_max, the cap itself. TRL's `epsilon_high` is this number (5); verl's and open-instruct's is
        this number less 1.
      min_ratio: ρ_min; 0 in TRL, 1 - ε_low in verl.

    Returns: a surrogate for each token. Log-ratios beyond ±20 count as ±20.
    Raises: InputError where the shapes differ.
    Source: MiniMax, "MiniMax-M1", 2025 (arXiv:2506.13585).
    """
    logps, behaviour_logps, advantages = aligned(
        "cispo_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages
    )
    weight = jnp.clip(_ratio(logps - behaviour_logps), min_ratio, max_ratio)
    return -jax.lax.stop_gradient(weight * advantages) * logps


def gspo_loss(
    logps: Float[Array, "*batch T"],
    behaviour_logps: Float[Array, "*batch T"],
    advantages: Float[Array, "*batch"],
    mask: Shaped[Array, "*batch T"],
    *,
    epsilon_low: Scalar = 3e-4,
    epsilon_high: Scalar = 4e-4,
) -> Float[Array, "*batch"]:
    """Group sequence policy optimisation: one ratio a sequence, the geometric mean of its tokens'.

        loss = -min(s A, clip(s, 1 - ε_low, 1 + ε_high) A),   s = exp(1/|y| Σₜ log π(yₜ|·)/π_b(yₜ|·))

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: A of each sequence, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      epsilon_low: ε_low. The ratio is a mean of logs, so it moves much less than that of a token.
      epsilon_high: ε_high.

    Returns: a surrogate for each sequence, to be averaged over sequences. TRL reaches it with
      `importance_sampling_level="sequence"` and `loss_type="grpo"`; its other averages weigh it by length.
    Raises: InputError where the shapes disagree.
    Source: Zheng et al., "Group Sequence Policy Optimization", 2025, eq. 5 and 7 (arXiv:2507.18071).
    """
    logps, behaviour_logps, mask = aligned(
        "gspo_loss", logps=logps, behaviour_logps=behaviour_logps, mask=mask
    )
    log_ratio = _mean_log_ratio(logps, jax.lax.stop_gradient(behaviour_logps), mask)
    log_ratio, advantages = aligned("gspo_loss", logps=log_ratio, advantages=advantages)
    return _clipped(_ratio(log_ratio), advantages, epsilon_low, epsilon_high, jnp.inf)


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

    With one advantage a sequence, `Weighted.sequences` of this has the value and the gradient of `gspo_loss`.

    Args:
      logps: log π of each token, in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      mask: 1 for tokens of the completion, 0 for padding, which may hold anything finite.
      epsilon_low: ε_low.
      epsilon_high: ε_high.

    Returns: a surrogate for each token.
    Raises: InputError where the shapes differ.
    Source: Zheng et al., "Group Sequence Policy Optimization", 2025, eq. 13 and 14 (arXiv:2507.18071).
    """
    logps, behaviour_logps, advantages, mask = aligned(
        "gspo_token_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages, mask=mask
    )
    log_ratio = jax.lax.stop_gradient(_mean_log_ratio(logps, behaviour_logps, mask))
    ratio = _ratio(log_ratio)[..., None] * jnp.exp(logps - jax.lax.stop_gradient(logps))
    return _clipped(ratio, advantages, epsilon_low, epsilon_high, jnp.inf)


def _ratio(log_ratio):
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _mean_log_ratio(logps, behaviour_logps, mask):
    """Over the tokens of a sequence; 0 where it has none."""
    log_ratios = jnp.where(mask == 0, 0.0, logps - behaviour_logps)
    return jnp.sum(log_ratios, axis=-1) / jnp.maximum(jnp.sum(mask != 0, axis=-1), 1)


def _clipped(ratio, advantages, epsilon_low, epsilon_high, max_ratio):
    advantages = jax.lax.stop_gradient(advantages)
    inside = jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high)
    return -jnp.minimum(jnp.minimum(ratio, max_ratio) * advantages, inside * advantages)
