"""Keeping a policy undecided: an entropy bonus, the tokens where it is undecided, and controllers of a price."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.rewards.ordering import kth_smallest
from prefjax.types import Scalar


def entropy_bonus(entropies: Float[Array, "*batch"], *, coef: Scalar) -> Float[Array, "*batch"]:
    """What is added to the loss of a token so that a policy stays undecided.

        -c H(π(·|x, y₍<ₜ₎))

    Args:
      entropies: H of each token's distribution, in nats: `entropy` of its logits.
      coef: c >= 0, in units of the loss a nat.

    Returns: a term for each token, to be averaged over tokens (`Weighted.tokens`).
    Raises: nothing.
    Range: linear, with slope -c.
    Optimum: beside a reward of one token, E[R] + c H: the policy softmax(R/c). Of sequences it is not the entropy of
      the whole, since no token is charged for the entropy of prefixes that it leads to.
    Relatives: `kl_exact` to a uniform reference times c, less the constant c log V.
    Elsewhere: TRL's `entropy_coef`, always a mean over tokens, whatever average the loss has.
    Source: Williams and Peng, "Function Optimization Using Connectionist Reinforcement Learning Algorithms", 1991.
    """
    (entropies,) = aligned("entropy_bonus", entropies=entropies)
    return -coef * entropies


def entropy_threshold(
    entropies: Float[Array, "..."], mask: Shaped[Array, "..."], *, fraction: Scalar = 0.2
) -> Float[Array, ""]:
    """The entropy that the most undecided tokens of a step exceed: the quantile for `high_entropy_mask`.

        the (1 - f) quantile of {Hᵢ : mᵢ = 1}, interpolated between neighbours

    Args:
      entropies: H of every token of the whole optimiser step, of any shape, in nats.
      mask: 1 for tokens that count, 0 for padding, which may hold anything.
      fraction: f in [0, 1], the share of tokens to learn from.

    Returns: nats; nan where there is no token.
    Raises: InputError where the shapes differ.
    Range: no gradient; finite where entropies are.
    Elsewhere: TRL's `top_entropy_quantile` is f, 1 unless set, and takes the quantile over a microbatch of all
      processes.
    Source: Wang et al., "Beyond the 80/20 Rule", 2025 (arXiv:2506.01939).
    """
    entropies, mask = aligned("entropy_threshold", entropies=entropies, mask=mask)
    counted = jax.lax.stop_gradient(jnp.where(mask != 0, entropies, jnp.inf))
    number = jnp.sum(mask != 0)
    between = (1 - jnp.asarray(fraction, counted.dtype)) * (number - 1)
    below = jnp.clip(jnp.floor(between).astype(int), 0, jnp.maximum(number - 1, 0))
    lower = kth_smallest(counted, below)
    # The next one: the same again, or the least that is larger.
    again = jnp.sum(counted <= lower) > below + 1
    larger = jnp.min(jnp.where(counted > lower, counted, jnp.inf), initial=jnp.inf)
    upper = jnp.where(again | (below + 1 >= number), lower, larger)
    share = between - below
    return jnp.where(number > 0, lower * (1 - share) + upper * share, jnp.nan)


def high_entropy_mask(
    entropies: Float[Array, "*batch"], mask: Shaped[Array, "*batch"], threshold: Scalar
) -> Float[Array, "*batch"]:
    """The tokens at which something is decided: a factor of the policy loss, and of nothing else.

        1[m = 1 and H >= threshold]

    Args:
      entropies: H of each token's distribution, in nats.
      mask: 1 for tokens of the completion.
      threshold: over the whole optimiser step: `entropy_threshold`.

    Returns: 1 or 0 for each token, without gradient.
    Raises: InputError where the shapes differ.
    Range: no gradient.
    Relatives: with the threshold of f = 1 it is the mask itself.
    Elsewhere: TRL multiplies losses by it and averages over all tokens still, except in GMPO, whose mean over a
      sequence is then over these tokens alone.
    Source: Wang et al., "Beyond the 80/20 Rule", 2025 (arXiv:2506.01939).
    """
    entropies, mask = aligned("high_entropy_mask", entropies=entropies, mask=mask)
    return jax.lax.stop_gradient(((mask != 0) & (entropies >= threshold)).astype(entropies.dtype))


def adapted_entropy_coef(
    coef: Scalar, entropy: Scalar, *, target: Scalar = 0.2, step: Scalar = 0.005,
    min_coef: Scalar = 0.0, max_coef: Scalar = 1.0,
) -> Float[Array, ""]:  # fmt: skip
    """The next step's price of being decided: up while the entropy is too low, else down.

        c ← min(c + δ, c_max) where H <= H*, else max(c - δ, c_min)

    In a step it applies only where the entropy of the step before was at most H*; else the coefficient is 0.

    Args:
      coef: c, of the step that was taken.
      entropy: H, its mean over the tokens of that whole step, in nats.
      target: H*, in nats.
      step: δ.
      min_coef: c_min.
      max_coef: c_max.

    Returns: c of the next step.
    Raises: nothing.
    Range: within [c_min, c_max].
    Elsewhere: TRL's `use_adaptive_entropy`; Skywork-OR1 has a target of 0.2 too, TRL's documentation one of 5.
    Source: He et al., "Skywork Open Reasoner 1", 2025 (arXiv:2505.22312).
    """
    coef = jnp.asarray(coef, jnp.float32)
    up, down = jnp.minimum(coef + step, max_coef), jnp.maximum(coef - step, min_coef)
    return jnp.where(jnp.asarray(entropy) <= target, up, down)


def adapted_kl_coef(
    coef: Scalar, kl: Scalar, *, target: Scalar, horizon: Scalar = 10_000, num_samples: Scalar
) -> Float[Array, ""]:
    """The next step's price of KL: a proportional controller towards a divergence that one can afford.

        κ ← κ (1 + clip(KL/KL* - 1, -0.2, 0.2) n/N)

    Args:
      coef: κ, of the step that was taken.
      kl: KL, its mean over the completions of that whole step, in nats.
      target: KL* > 0, in nats.
      horizon: N, in completions; 10,000 in the paper. While KL is far off, κ changes by a fifth every N.
      num_samples: n, completions of the step.

    Returns: κ of the next step.
    Raises: nothing.
    Range: changes by at most n/(5N) a step, and stays positive while n < 5N.
    Elsewhere: verl's and older TRL's AdaptiveKLController; TRL has none now.
    Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences", 2019, section 2.2 (arXiv:1909.08593).
    """
    error = jnp.clip(jnp.asarray(kl, jnp.float32) / target - 1, -0.2, 0.2)
    return jnp.asarray(coef, jnp.float32) * (1 + error * num_samples / horizon)
