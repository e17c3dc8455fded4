"""Dense rewards: every segment of a completion is scored, and its score is laid on the token that ends it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned


def segment_rewards(
    scores: Float[Array, "*batch L"],
    ends: Shaped[Array, "*batch L"],
    segment_mask: Shaped[Array, "*batch L"],
    mask: Shaped[Array, "*batch T"],
) -> Float[Array, "*batch T"]:
    """Rewards of tokens, from the scores of the segments of one kind.

        rₜ = Σⱼ [t = min(Tⱼ, T - 1)] Rⱼ

    Several kinds of fault, each with its model and its own segments, are summed by the caller, Σₖ wₖ rₜᵏ, and the
    price of KL is added with `kl_shaped_rewards` of scores 0.

    Args:
      scores: Rⱼ of L segments: sub-sentences, sentences, or one for the whole text.
      ends: Tⱼ, the place of the last token of each segment, from 0. One behind the last token, of a completion that
        was cut, counts for the last token.
      segment_mask: 1 where there is a segment; the others may hold anything.
      mask: 1 for tokens of the completion, which come first, 0 for padding.

    Returns: rewards in units of score, 0 at tokens that end no segment, and at all tokens of an empty completion. Their
      sum is that of the scores.
    Raises: InputError where the shapes disagree.
    Range: linear in the scores.
    Relatives: one segment that ends with the text is `kl_shaped_rewards` at β = 0. `progress_rewards` makes scores
      of segments from values of prefixes, as the paper's toxicity rewards are made.
    Elsewhere: the authors' code assigns where this adds, so that of two segments cut to one place one is lost.
    Source: Wu et al., "Fine-Grained Human Feedback Gives Better Rewards for Language Model Training", 2023, section 2
      (arXiv:2306.01693).
    """
    scores, ends, segment_mask = aligned(
        "segment_rewards", scores=scores, ends=ends, segment_mask=segment_mask
    )
    (mask,) = aligned("segment_rewards", mask=mask)
    if mask.ndim == 0 or scores.ndim == 0 or mask.shape[:-1] != scores.shape[:-1]:
        refuse(
            "segment_rewards", f"scores has shape {scores.shape}, mask has shape {mask.shape}",
            "the segments and the tokens of the same completions: […, L] and […, T]", "Index or reshape first.",
        )  # fmt: skip
    present = segment_mask != 0
    last = jnp.sum(mask != 0, axis=-1, keepdims=True) - 1
    place = jnp.minimum(ends, last)[..., None]
    tokens = jax.lax.broadcasted_iota(jnp.int32, (*scores.shape, mask.shape[-1]), scores.ndim)
    here = (tokens == place) & present[..., None]
    return jnp.sum(jnp.where(here, scores[..., None], 0.0), axis=-2)
