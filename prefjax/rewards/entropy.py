"""How uncertain a model is about the answer, and what each step of reasoning has taken from that."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned


def answer_entropy(
    logits: Float[Array, "*batch M V"], mask: Shaped[Array, "*batch M"]
) -> Float[Array, "*batch"]:
    """The mean entropy of the tokens of an answer, given what stands before.

        Ĥ = 1/M Σₜ H(p(·|context, y_{<t})),   H(p) = -Σᵥ p(v) log p(v)

    Args:
      logits: of the M tokens of the answer, teacher-forced, over the whole vocabulary.
      mask: 1 for tokens of the answer, 0 for padding, which may hold anything.

    Returns: nats a token; nan for an answer without tokens. Averaged over answers y ~ p, M times this is the
      entropy of the answer; of one fixed y it is a proxy.
    Raises: InputError where the shapes disagree.
    Range: between 0 and log V; the slope in each logit is |p (log p + H)|/M, at most 1 + log V in size.
    Relatives: `entropy_gains` of it after every step of a chain; a uniform distribution over n tokens has log n.
    Source: Guo, "Measuring Reasoning Utility in LLMs via Conditional Entropy Reduction", 2025 (arXiv:2508.20395).
    """
    (mask,) = aligned("answer_entropy", mask=mask)
    if jnp.ndim(logits) < 2 or jnp.shape(logits)[:-1] != mask.shape:
        refuse(
            "answer_entropy", f"logits has shape {jnp.shape(logits)}, mask has shape {mask.shape}",
            "a row of logits for each token of the answer: […, M, V] and […, M]", "Index or reshape first.",
        )  # fmt: skip
    (logits,) = aligned("answer_entropy", logits=logits)
    present = mask != 0
    logps = jax.nn.log_softmax(jnp.where(present[..., None], logits, 0.0), axis=-1)
    probability = jnp.exp(logps)
    # 0 · -inf, of a token that a mask of the sampler has ruled out, is 0.
    entropies = -jnp.sum(probability * jnp.where(probability > 0, logps, 0.0), axis=-1)
    count = jnp.sum(present, axis=-1)
    total = jnp.sum(jnp.where(present, entropies, 0.0), axis=-1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def entropy_gains(entropies: Float[Array, "*batch N"]) -> Float[Array, "*batch N-1"]:
    """What each step of a chain has taken from the uncertainty about the answer.

        IGₖ = Ĥₖ₋₁ - Ĥₖ,   Σₖ IGₖ = Ĥ₀ - Ĥ_K

    Args:
      entropies: Ĥ₀ … Ĥ_K, the `answer_entropy` after 0 … K steps.

    Returns: nats a token for each step; positive for a step that helped. A confidently wrong chain has them too.
    Raises: InputError where there is no Ĥ₀.
    Range: linear.
    Relatives: `progress_rewards` of minus the entropies. Their mean over chains estimates the information
      I(Y; Z|X) ≥ 0; one chain's may be negative.
    Source: Guo, "Measuring Reasoning Utility in LLMs via Conditional Entropy Reduction", 2025 (arXiv:2508.20395).
    """
    (entropies,) = aligned("entropy_gains", entropies=entropies)
    if entropies.shape[-1:] in ((), (0,)):
        refuse(
            "entropy_gains", f"entropies has shape {entropies.shape}", "an entropy before the first step: […, K + 1]",
            "Start with that of the question alone.",
        )  # fmt: skip
    return entropies[..., :-1] - entropies[..., 1:]


def entropy_slope(entropies: Float[Array, "*batch N"]) -> Float[Array, "*batch"]:
    """The trend of a chain's uncertainty: negative for chains that work towards an answer.

        b = Σₖ (k - k̄) Ĥₖ / Σₖ (k - k̄)²

    Args:
      entropies: the `answer_entropy` after 0, 1, … steps.

    Returns: nats a token, per step: the least-squares slope; nan where there are fewer than two entropies.
    Raises: nothing.
    Range: linear.
    Relatives: of two entropies it is minus the one of `entropy_gains`.
    Source: Guo, "Measuring Reasoning Utility in LLMs via Conditional Entropy Reduction", 2025 (arXiv:2508.20395).
    """
    (entropies,) = aligned("entropy_slope", entropies=entropies)
    size = entropies.shape[-1]
    places = jnp.arange(size, dtype=entropies.dtype) - (size - 1) / 2
    trend = jnp.sum(entropies * jnp.broadcast_to(places, entropies.shape), axis=-1)
    return trend / jnp.where(size > 1, jnp.sum(places**2), jnp.nan)
