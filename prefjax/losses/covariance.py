"""Policy gradients that spare the tokens which cost most entropy: those of the largest covariance.

Entropy falls where likely tokens have high advantages. Both losses leave the selection to their caller: it is a
statistic of the whole optimiser step, made from `token_covariances`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from prefjax.losses.policy_gradient import MAX_LOG_RATIO, ppo_clip_loss
from prefjax.rewards.arrays import aligned, rounded_down
from prefjax.rewards.ordering import kth_smallest
from prefjax.types import Scalar


def clip_cov_loss(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    selected: Shaped[Array, "*batch"],
    *,
    epsilon_low: Scalar = 0.2,
    epsilon_high: Scalar = 0.2,
) -> Float[Array, "*batch"]:
    """Clip-Cov: PPO's clipped surrogate, without the selected tokens.

        lossₜ = 0 where selected, else -min(ρₜ Aₜ, clip(ρₜ, 1 - ε_low, 1 + ε_high) Aₜ)

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      selected: 1 for the tokens left out: `clip_cov_selection`.
      epsilon_low: ε_low in [0, 1].
      epsilon_high: ε_high >= 0.

    Returns: a surrogate for each token; tokens left out stay in the denominator of the average.
    Raises: InputError where the shapes differ.
    Range: as of `ppo_clip_loss`.
    Optimum: as of `ppo_clip_loss`.
    Relatives: with nothing selected it is `ppo_clip_loss`.
    Elsewhere: verl's "clip_cov" selects 0.0002 of the tokens, at random among those with a covariance in (1, 5).
    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025
      (arXiv:2505.22617).
    """
    logps, behaviour_logps, advantages, selected = aligned(
        "clip_cov_loss",
        logps=logps,
        behaviour_logps=behaviour_logps,
        advantages=advantages,
        selected=selected,
    )
    losses = ppo_clip_loss(
        logps, behaviour_logps, advantages, epsilon_low=epsilon_low, epsilon_high=epsilon_high
    )
    return jnp.where(selected != 0, 0.0, losses)


def kl_cov_loss(
    logps: Float[Array, "*batch"],
    behaviour_logps: Float[Array, "*batch"],
    advantages: Float[Array, "*batch"],
    selected: Shaped[Array, "*batch"],
    *,
    coef: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """KL-Cov: the plain surrogate, and on the selected tokens a price for any move.

        lossₜ = -ρₜ Aₜ + c |log ρₜ| where selected,   ρₜ = π(yₜ|·) / π_b(yₜ|·)

    Args:
      logps: log π of each token [..., T], in nats.
      behaviour_logps: log π_b of the same tokens under the policy that sampled them; no gradient flows through.
      advantages: Aₜ, in units of reward; no gradient flows through them.
      selected: 1 for the tokens that are held: those with `token_covariances` >= `covariance_threshold`.
      coef: c >= 0, in units of reward a nat.

    Returns: a surrogate for each token; -A at ρ = 1.
    Raises: InputError where the shapes differ.
    Range: finite everywhere; log-ratios beyond ±20 count as ±20 in ρ, without gradient. The price has slope c, and
      0 at ρ = 1.
    Optimum: on a fixed batch, a token with c > |A| stays where it was; with less, ρ = c/|A| where A < 0, and none
      where A > 0.
    Relatives: with nothing selected, or c = 0, it is `ppo_clip_loss` without a clip.
    Elsewhere: verl's "kl_cov" selects the 0.0002 of tokens with the largest covariance.
    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025
      (arXiv:2505.22617).
    """
    logps, behaviour_logps, advantages, selected = aligned(
        "kl_cov_loss", logps=logps, behaviour_logps=behaviour_logps, advantages=advantages, selected=selected
    )
    log_ratio = logps - jax.lax.stop_gradient(behaviour_logps)
    ratio = jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    # |d| as d times its sign, which is 0 at 0: JAX gives jnp.abs the slope 1 there.
    price = jnp.where(selected != 0, coef * log_ratio * jax.lax.stop_gradient(jnp.sign(log_ratio)), 0.0)
    return price - ratio * jax.lax.stop_gradient(advantages)


def token_covariances(
    logps: Float[Array, "..."], advantages: Float[Array, "..."], mask: Shaped[Array, "..."]
) -> Float[Array, "..."]:
    """What each token adds to the covariance of log-probability and advantage: how much entropy it costs.

        (Aₜ - Ā)(log π(yₜ|·) - mean of log π)

    Args:
      logps: log π of every token of the whole optimiser step, of any shape, in nats.
      advantages: Aₜ, in units of reward.
      mask: 1 for tokens, 0 for padding, which may hold anything.

    Returns: reward · nats for each token, without gradient; 0 where the mask is.
    Raises: InputError where the shapes differ.
    Range: no gradient; finite where the arguments are.
    Relatives: its mean is the covariance.
    Elsewhere: verl takes both means over a microbatch.
    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025
      (arXiv:2505.22617).
    """
    logps, advantages, mask = aligned("token_covariances", logps=logps, advantages=advantages, mask=mask)
    present = mask != 0
    count = jnp.maximum(jnp.sum(present), 1)

    def centred(values):
        values = jnp.where(present, jax.lax.stop_gradient(values), 0.0)
        return jnp.where(present, values - jnp.sum(values) / count, 0.0)

    return centred(advantages) * centred(logps)


def covariance_threshold(
    covariances: Float[Array, "..."], mask: Shaped[Array, "..."], *, fraction: Scalar = 2e-4
) -> Float[Array, ""]:
    """The covariance that the f n largest reach, at least one of them: of `kl_cov_loss`.

        the k-th largest of {covᵢ : mᵢ = 1},   k = max(1, ⌊f n⌋),   n = Σ mᵢ

    Args:
      covariances: `token_covariances` of the whole optimiser step.
      mask: 1 for tokens, 0 for padding.
      fraction: f in (0, 1].

    Returns: a covariance; ∞ where there is no token.
    Raises: InputError where the shapes differ.
    Range: no gradient.
    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025
      (arXiv:2505.22617).
    """
    covariances, mask = aligned("covariance_threshold", covariances=covariances, mask=mask)
    count = jnp.sum(mask != 0)
    place = jnp.maximum(rounded_down(fraction * count), 1) - 1
    largest = -kth_smallest(jnp.where(mask != 0, -covariances, jnp.inf), place)
    return jnp.where(count > 0, largest, jnp.inf)


def clip_cov_selection(
    key: Key[Array, ""],
    covariances: Float[Array, "..."],
    mask: Shaped[Array, "..."],
    *,
    fraction: Scalar = 2e-4,
    low: Scalar = 1.0,
    high: Scalar = 5.0,
) -> Float[Array, "..."]:
    """Which tokens `clip_cov_loss` leaves out: f n of them, drawn from those whose covariance is in a window.

        k = max(1, ⌊f n⌋) at random of {i : mᵢ = 1, low < covᵢ < high},   n = Σ mᵢ

    Args:
      key: of the draw.
      covariances: `token_covariances` of the whole optimiser step, of any shape.
      mask: 1 for tokens that may be left out: without those that PPO has clipped already.
      fraction: f in (0, 1].
      low: in reward · nats.
      high: the same.

    Returns: 1 for tokens selected, else 0; all in the window where there are fewer than k.
    Raises: InputError where the shapes differ.
    Range: no gradient.
    Elsewhere: verl counts in n the tokens that are clipped already.
    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025
      (arXiv:2505.22617).
    """
    covariances, mask = aligned("clip_cov_selection", covariances=covariances, mask=mask)
    eligible = (mask != 0) & (covariances > low) & (covariances < high)
    # A place in line for each: the first k in line are selected.
    order = jnp.where(eligible, jax.random.uniform(key, covariances.shape), jnp.inf)
    place = jnp.argsort(jnp.argsort(order, axis=None)).reshape(covariances.shape)
    count = jnp.maximum(rounded_down(fraction * jnp.sum(mask != 0)), 1)
    return (eligible & (place < count)).astype(covariances.dtype)
