"""Noise-contrastive alignment: several completions with rewards, told apart from samples of the reference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def nca_loss(
    logratio: Float[Array, "*batch K"],
    reward: Float[Array, "*batch K"],
    mask: Shaped[Array, "*batch K"],
    *,
    beta: Scalar,
    temperature: Scalar,
) -> Float[Array, "*batch"]:
    """Noise-contrastive alignment: each completion's implicit reward is pulled up by its share, and down alike.

        loss = -Σₖ [wₖ log σ(βρₖ) + (1/K) log σ(-βρₖ)],   w = softmax(r/α),   ρₖ = log π(yₖ|x) - log π₀(yₖ|x)

    Args:
      logratio: ρₖ of K completions of one prompt, each summed over its tokens, in nats.
      reward: rₖ of each, through which no gradient flows.
      mask: 1 where there is a completion, 0 where a shorter list has none; K of the equation counts those present.
      beta: β > 0, in reward per nat away from π₀.
      temperature: α > 0, in units of reward: how much of the weight the best ones take.

    Returns: a loss in nats for each list; 2 log 2 where π = π₀, 0 for an empty list.
    Raises: InputError where the shapes differ.
    Range: slope at most β; log-ratios of ±1e4 are fine.
    Optimum: βρₖ = log(K wₖ) = rₖ/α - log mean exp(r/α): the implicit reward itself is determined, not only its
      differences. Over many samples of π₀ that is π = π₀ exp(r/αβ) up to a factor, with β = 1 normalised.
    Relatives: where the best of two takes all the weight it is `nca_pair_loss`. `listnet_loss` of β log-ratios is
      InfoNCA, its softmax relative, which sees differences only.
    Elsewhere: TRL has the pair's version, as `nca_pair`. The authors' code adds 0.01 to the reward of the
      completion that comes first, so that it wins ties.
    Source: Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024
      (arXiv:2402.05369).
    """
    logratio, reward, mask = aligned("nca_loss", logratio=logratio, reward=reward, mask=mask)
    present = mask != 0
    count = jnp.maximum(jnp.sum(present, axis=-1, keepdims=True), 1)
    scaled = jnp.where(present, jax.lax.stop_gradient(reward) / temperature, jnp.finfo(reward.dtype).min)
    share = jax.nn.softmax(scaled, axis=-1)
    implicit = beta * jnp.where(present, logratio, 0.0)
    pulls = share * log_sigmoid(implicit) + log_sigmoid(-implicit) / count
    return -jnp.sum(jnp.where(present, pulls, 0.0), axis=-1)
