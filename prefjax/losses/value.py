"""The loss of a value head: what was predicted, and what came of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def value_loss(
    values: Float[Array, "*batch"],
    behaviour_values: Float[Array, "*batch"],
    returns: Float[Array, "*batch"],
    *,
    epsilon: Scalar = jnp.inf,
) -> Float[Array, "*batch"]:
    """Half the squared error of a value, and optionally PPO's clip of how far it may move.

        loss = 1/2 max((V - G)², (V' + clip(V - V', -ε, ε) - G)²)

    The maximum makes the clip pessimistic: it never lowers the loss, and where the clipped error is the larger
    one there is no gradient.

    Args:
      values: V(sₜ) of the value head, [..., T].
      behaviour_values: V'(sₜ) as it was when the trajectory was sampled. No gradient flows through it.
      returns: Gₜ, for GAE the advantage (before any whitening) plus V'. No gradient flows through it.
      epsilon: ε > 0, in units of the value, so it has to fit the scale of rewards.

    Returns: a loss in squared units of reward for each step.
    Raises: InputError where the shapes differ.
    Range: a square: the slope |V - G| grows with the error.
    Optimum: the mean of the returns from a state; with ε it is reached in steps of at most ε a rollout.
    Relatives: with ε = ∞ half the squared error, and so it is at V = V' whatever ε.
    Elsewhere: TRL's PPO has ε = 0.2 (`cliprange_value`) and multiplies the mean by `vf_coef`, 0.1. Codes without
      the 1/2 have twice this.
    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 9 (arXiv:1707.06347); the clip
      is that of the authors' code.
    """
    values, behaviour_values, returns = aligned(
        "value_loss", values=values, behaviour_values=behaviour_values, returns=returns
    )
    behaviour_values, returns = jax.lax.stop_gradient((behaviour_values, returns))
    if isinstance(epsilon, float) and epsilon == jnp.inf:  # the default: V' need not even be read
        return (values - returns) ** 2 / 2
    clipped = behaviour_values + jnp.clip(values - behaviour_values, -epsilon, epsilon)
    return jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2
