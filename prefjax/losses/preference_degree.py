"""Preference degrees: how much of its key content has a completion lost?"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned


def preference_degree_loss(
    degree_logits: Float[Array, "*batch D"], degree: Shaped[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Self-supervised preference optimisation, its term: a head on the policy tells the degree of a damaged completion.

        loss = -log softmax(g)_d,   g = head(hidden state of y⁽ᵈ⁾),   y⁽ᵈ⁾ = y without d/(D - 1) of its key spans

    Beside any loss on pairs: once for a variant of the chosen completion, once for one of the rejected, the sum of
    the two times γ (0.1 to begin with). Gradients flow into the head and, through the hidden state, into the policy.

    Args:
      degree_logits: g, the D outputs of the head at the last token of the damaged completion.
      degree: d in {0, …, D - 1}, drawn uniformly; 0 is the completion as it was.

    Returns: a loss in nats for each completion; log D of a head that knows nothing.
    Raises: InputError where the shapes disagree.
    Range: everywhere; slope at most 1.
    Optimum: g = log P(d | y⁽ᵈ⁾) and a constant.
    Relatives: plain cross-entropy over D classes. Degrees are ordered, which it does not use.
    Elsewhere: the method's SPO is neither the self-play preference optimisation of Swamy et al. nor SPPO.
    Source: Li et al., "Self-supervised Preference Optimization", 2024 (arXiv:2409.17791). Its text gives the idea;
      weights and head are free here.
    """
    if jnp.shape(degree_logits)[:-1] != jnp.shape(degree):
        refuse(
            "preference_degree_loss",
            f"degree_logits has shape {jnp.shape(degree_logits)}, degree has shape {jnp.shape(degree)}",
            "[..., D] and [...]", "One degree for each row of logits.",
        )  # fmt: skip
    (degree_logits,) = aligned("preference_degree_loss", degree_logits=degree_logits)
    logps = jax.nn.log_softmax(degree_logits, axis=-1)
    classes = jax.lax.broadcasted_iota(jnp.int32, logps.shape, logps.ndim - 1)
    return -jnp.sum(jnp.where(degree[..., None] == classes, logps, 0.0), axis=-1)
