"""Losses on single completions, each labelled as liked or not."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def kto_loss(
    logratio: Float[Array, "*batch"],
    desirable: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    kl: Scalar,
    desirable_weight: Scalar = 1.0,
    undesirable_weight: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Kahneman-Tversky optimisation: a gain is worth ever less, a loss hurts ever less, seen from z₀.

        loss = w_D (1 - σ(β(ρ - z₀)))   if the completion is desirable,   ρ = log π(y|x) - log π₀(y|x)
             = w_U (1 - σ(β(z₀ - ρ)))   if not,                           z₀ = max(0, KL)

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      desirable: 1 where it was liked, 0 where not.
      beta: β > 0, in reward per nat away from π₀.
      kl: the reference point in nats, through which no gradient flows: the mean, over the whole optimiser step,
        of log π(y'|x) - log π₀(y'|x) for completions y' of *other* prompts, as the paper and TRL estimate
        KL(π‖π₀). A negative estimate counts as 0. Held at 0 this is TRL's `apo_zero_unpaired`.
      desirable_weight: w_D. The paper asks for w_D n_D / (w_U n_U) between 1 and 4/3.
      undesirable_weight: w_U.

    Returns: a loss in (0, w) for each completion; w/2 where π = π₀ and z₀ = 0. The mean is over examples, not
      over their weights, as in TRL.
    Raises: InputError where the shapes differ.
    Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, eq. 7
      (arXiv:2402.01306).
    """
    logratio, desirable = aligned("kto_loss", logratio=logratio, desirable=desirable)
    z = beta * (logratio - jax.lax.stop_gradient(jnp.maximum(kl, 0.0)))
    gain, pain = jax.nn.sigmoid(-z), jax.nn.sigmoid(z)
    return jnp.where(desirable != 0, desirable_weight * gain, undesirable_weight * pain)


def bco_loss(
    logratio: Float[Array, "*batch"],
    desirable: Shaped[Array, "*batch"],
    *,
    beta: Scalar,
    shift: Scalar,
) -> Float[Array, "*batch"]:
    """Binary classifier optimisation: the implicit reward, shifted, is the logit of "liked".

        loss = -log σ(βρ - δ)   if the completion is desirable,   ρ = log π(y|x) - log π₀(y|x)
             = -log σ(δ - βρ)   if not

    Where prompts of liked and disliked completions differ, the paper weighs the latter by p/(1 - p) of a
    classifier of prompts; that is a product with what is returned here.

    Args:
      logratio: ρ of each completion, summed over its tokens, in nats.
      desirable: 1 where it was liked, 0 where not.
      beta: β > 0, in reward per nat away from π₀.
      shift: δ, in units of reward, through which no gradient flows: the running mean of βρ over everything seen.
        TRL adds the current batch to it before it is used, and every example ever seen weighs the same.

    Returns: a loss in nats for each completion; log 2 where βρ = δ.
    Raises: InputError where the shapes differ.
    Source: Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", 2024
      (arXiv:2404.04656).
    """
    logratio, desirable = aligned("bco_loss", logratio=logratio, desirable=desirable)
    logit = beta * logratio - jax.lax.stop_gradient(shift)
    return -jax.nn.log_sigmoid(jnp.where(desirable != 0, logit, -logit))
