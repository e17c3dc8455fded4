"""Policy gradients on tokens: surrogates whose gradient makes likelier what did better than expected.

All take advantages as they are: no baseline, no whitening, no KL inside. Padding may hold anything finite; the
average masks it, and which average is half of a method's name:

    Weighted.sequences                 GRPO's paper, SAPO; TRL's "grpo"; verl's "seq-mean-token-mean"
    Weighted.tokens, a whole step      DAPO, CISPO, VESPO; verl's "token-mean"
    Weighted.tokens, a microbatch      TRL's "bnpo", which then depends on how the batch was cut
    Weighted.constant, T_max           Dr. GRPO; verl's "seq-mean-token-sum-norm" is B times that
    Weighted.of, an array [B]          GSPO, GMPO, LUSPO, RLOO in TRL: losses of whole sequences

DAPO is the second with ε_high = 0.28, `returns.dynamic_sampling_mask` and `rewards.overlong_penalty`. Where the
sampler is not the policy that the ratio starts from (decoupled PPO), the loss is multiplied by a weight of
`off_policy.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    Range: linear, with slope -A everywhere.
    Optimum: for samples of π itself, a policy that maximises E[R]; on a fixed batch none, it runs away.
    Relatives: the gradient at ρ = 1 of `ppo_clip_loss`, `cispo_loss`, `sapo_loss`, `vespo_loss` and
      `gspo_token_loss`, so that with one update a rollout nobody can tell these apart.
    Elsewhere: GPG is this with `returns.gpg_advantages`; REINFORCE++ is `ppo_clip_loss` with
      `returns.reinforce_plus_plus_advantages`.
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
    where A < 0 and ρ > c.

    Args:
      logps: log π of each token [..., T], in nats; for one ratio a sequence, sums [...].
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      epsilon_low: ε_low in [0, 1].
      epsilon_high: ε_high >= 0; DAPO's "clip-higher" has 0.28 beside 0.2.
      max_ratio: c > 1 + ε_high, off unless given. Where A < 0 the plain surrogate is unbounded; this bounds it by
        c|A|.

    Returns: a surrogate for each token; -A at ρ = 1.
    Raises: InputError where the shapes differ.
    Range: finite everywhere: log-ratios beyond ±20 count as ±20, without gradient. The slope is at most
      (1 + ε_high)A for A > 0 and c|A| for A < 0.
    Optimum: on a fixed batch none inside: ratios go to the edge of the clip (for A < 0 and no c, from any height) and
      rest there. With fresh samples at ρ = 1, that of `reinforce_loss`.
    Relatives: at ρ = 1 the gradient is that of `reinforce_loss`; with ε → ∞ it is -ρA, which on sums over
      sequences is exact off-policy; `gspo_loss` is this on the mean log-ratio of a sequence.
    Elsewhere: c is TRL's `delta` (INTELLECT-2: 4) and verl's `clip_ratio_c` (dual clip: 3). RLOO in TRL clips the
      ratio of whole sequences: give it sums over tokens. EasyLM's PPO recomputes π_b in the update, so its
      clip never acts.
    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7 (arXiv:1707.06347). Two
      epsilons: Yu et al., "DAPO", 2025, eq. 10 (arXiv:2503.14476). Dual clip: Ye et al., "Mastering Complex
      Control in MOBA Games", 2020, eq. 5 (arXiv:1912.09729).
    """
    logps, behaviour_logps, advantages = aligned(
        "ppo_clip_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages
    )
    ratio = _ratio(logps - jax.lax.stop_gradient(behaviour_logps))
    advantages = jax.lax.stop_gradient(advantages)
    # The sign of A says which of the two is the minimum.
    better = advantages > 0
    bound = jnp.where(better, 1 + epsilon_high, 1 - epsilon_low)
    ratio = jnp.where(jnp.where(better, ratio >= bound, ratio <= bound), bound, ratio)
    if not (isinstance(max_ratio, float) and max_ratio == jnp.inf):
        ratio = jnp.where(better, ratio, jnp.minimum(ratio, max_ratio))
    return -ratio * advantages


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

    The gradient in log π is -clip(ρ)A, on purpose not that of the value.

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      max_ratio: ρ_max, the cap itself.
      min_ratio: ρ_min.

    Returns: a surrogate for each token.
    Raises: InputError where the shapes differ.
    Range: finite everywhere; log-ratios beyond ±20 count as ±20. The slope is at most ρ_max |A|.
    Optimum: on a fixed batch none: tokens with A > 0 are made likelier without end. With fresh samples at ρ = 1, that
      of `reinforce_loss`.
    Relatives: with ρ_min = ρ_max = 1 this is `reinforce_loss`; with ρ_min = 0 and ρ_max = ∞ its gradient is that of
      `ppo_clip_loss` without a clip.
    Elsewhere: TRL's `epsilon_high` is ρ_max itself (5), and ρ_min is 0; verl's and open-instruct's `epsilon_high` is
      ρ_max less 1, and verl's ρ_min is 1 - ε_low. EasyDeL leaves out sg, so that the gradient has another sign
      wherever log π < -1, and caps at 0.2 by default.
    Source: MiniMax, "MiniMax-M1", 2025 (arXiv:2506.13585).
    """
    logps, behaviour_logps, advantages = aligned(
        "cispo_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages
    )
    weight = jnp.clip(_ratio(logps - behaviour_logps), min_ratio, max_ratio)
    return -jax.lax.stop_gradient(weight * advantages) * logps


def _ratio(log_ratio):
    return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
