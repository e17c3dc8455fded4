"""Losses on lists: several completions of a prompt, ranked or scored."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


def plackett_luce_loss(
    scores: Float[Array, "*batch K"], mask: Shaped[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Maximum likelihood of a ranking under the model of Plackett and Luce.

        loss = -Σₖ [sₖ - log Σⱼ₌ₖ^K exp sⱼ],   best first

    The best is drawn by a softmax of the scores, then the best of the rest, and so on. Only differences of scores
    count.

    Args:
      scores: sₖ of K completions of one prompt, the best one first: rewards, or β times log-ratios.
      mask: 1 where there is a completion, 0 where a shorter list has none; absent ones may stand anywhere.

    Returns: a loss in nats for each list; log K! where the scores are equal, 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Range: slope at most K - 1; scores of ±1e4 are fine, absent ones may hold anything.
    Optimum: the utilities of the model, up to a constant.
    Relatives: of two completions it is `bradley_terry_loss` of their scores, and `dpo_loss` where s = βρ. Its first
      term alone is `best_versus_rest_loss`.
    Elsewhere: rax and allRank call it ListMLE, and sort by labels first; here the list is already in order.
    Source: Plackett, "The Analysis of Permutations", 1975; Rafailov et al., "Direct Preference Optimization",
      2023, eq. 20 (arXiv:2305.18290).
    """
    scores, mask = aligned("plackett_luce_loss", scores=scores, mask=mask)
    present = mask != 0
    rest = jax.lax.cumlogsumexp(_without_absent(scores, present), axis=scores.ndim - 1, reverse=True)
    return jnp.sum(jnp.where(present, rest - scores, 0.0), axis=-1)


def best_versus_rest_loss(
    scores: Float[Array, "*batch K"], mask: Shaped[Array, "*batch K"]
) -> Float[Array, "*batch"]:
    """Maximum likelihood of a choice: the best of several completions, the others unranked.

        loss = -log σ(-log Σₖ₌₂^K exp(sₖ - s₁)) = -s₁ + log Σₖ exp sₖ,   the best first

    Args:
      scores: sₖ of K completions of one prompt, the best one first: rewards, or β times log-ratios.
      mask: 1 where there is a completion, 0 where a shorter list has none; the first one present is the best.

    Returns: a loss in nats for each list; log K where the scores are equal, 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Range: slope at most 1; scores of ±1e4 are fine, absent ones may hold anything.
    Optimum: softmax of the scores is the probability that each is chosen (Luce's model).
    Relatives: of two completions it is `bradley_terry_loss` of their scores. `plackett_luce_loss` goes on with the
      rest; `listnet_loss` whose targets leave no doubt is this.
    Elsewhere: S-DPO is this with s = βρ.
    Source: Chen et al., "On Softmax Direct Preference Optimization for Recommendation", 2024 (arXiv:2406.09215);
      Luce, "Individual Choice Behavior", 1959.
    """
    scores, mask = aligned("best_versus_rest_loss", scores=scores, mask=mask)
    present = mask != 0
    best = present & (jnp.cumsum(present, axis=-1) == 1)
    chances = jax.nn.log_softmax(_without_absent(scores, present), axis=-1)
    return -jnp.sum(jnp.where(best, chances, 0.0), axis=-1)


def listnet_loss(
    scores: Float[Array, "*batch K"],
    target_scores: Float[Array, "*batch K"],
    mask: Shaped[Array, "*batch K"],
    *,
    temperature: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy of two softmaxes over a list, of given scores and of learned ones.

        loss = -Σₖ wₖ log softmax(s)ₖ,   w = softmax(t/τ)

    Args:
      scores: sₖ of K completions of one prompt: rewards, or β times log-ratios.
      target_scores: tₖ of each, through which no gradient flows: what a judge or a reward model says of them.
      mask: 1 where there is a completion, 0 where a shorter list has none.
      temperature: τ > 0, in units of the targets: the less, the more the best ones count.

    Returns: a loss in nats for each list, never below the entropy of w; 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Range: slope at most 1; scores of ±1e4 are fine, absent ones may hold anything.
    Optimum: s = t/τ up to a constant; with s = βρ that is π = π₀ exp(t/(τβ)) normalised, the regularised optimum
      of the reward t/τ.
    Relatives: with τ → 0 `best_versus_rest_loss`. With s = βρ and rewards for targets it is InfoNCA; `nca_loss`
      is the one that also sees constants.
    Elsewhere: rax's `softmax_loss` takes weights w as they are.
    Source: Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007, top one; Chen et al.,
      "Noise Contrastive Alignment", 2024, InfoNCA (arXiv:2402.05369).
    """
    scores, targets, mask = aligned("listnet_loss", scores=scores, target_scores=target_scores, mask=mask)
    present = mask != 0
    targets = _without_absent(jax.lax.stop_gradient(targets) / temperature, present)
    chances = jax.nn.log_softmax(_without_absent(scores, present), axis=-1)
    return -jnp.sum(jnp.where(present, jax.nn.softmax(targets, axis=-1) * chances, 0.0), axis=-1)


def all_pairs_loss(
    scores: Float[Array, "*batch K"],
    labels: Float[Array, "*batch K"],
    mask: Shaped[Array, "*batch K"],
    *,
    bias: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """The mean over all pairs of a list: who is labelled higher is to score higher.

        loss = -mean over pairs i, j with cᵢ > cⱼ of log σ(sᵢ - λsⱼ)

    A tie in the labels counts as half a pair in either order.

    Args:
      scores: sₖ of K completions of one prompt (or segments of one situation): rewards, β times log-ratios, or the
        sums S of `cpl_loss`.
      labels: cₖ of each, of which only the order counts.
      mask: 1 where there is one, 0 where a shorter list has none.
      bias: λ in (0, 1] of contrastive preference learning; 1 otherwise.

    Returns: a loss in nats for each list; log 2 where the scores are equal and λ = 1, 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Range: slope at most 1; scores of ±1e4 are fine, absent ones may hold anything.
    Optimum: with λ = 1 and Bradley-Terry comparisons, the utilities up to a constant.
    Relatives: of two with λ = 1 it is `bradley_terry_loss`; of two segments `cpl_loss`. `plackett_luce_loss` is
      another number for the same ranking from three completions on.
    Elsewhere: InstructGPT's reward loss over K answers. The authors' code of CPL orders ties as its sort leaves
      them, and does not count pairs whose loss has rounded to 0.
    Source: Ouyang et al., "Training Language Models to Follow Instructions with Human Feedback", 2022, eq. 1
      (arXiv:2203.02155); Hejna et al., "Contrastive Preference Learning", 2023 (arXiv:2310.13639).
    """
    scores, labels, mask = aligned("all_pairs_loss", scores=scores, labels=labels, mask=mask)
    present = mask != 0
    scores = jnp.where(present, scores, 0.0)
    above, level = (compare(*_outer(labels)) for compare in (jnp.greater, jnp.equal))
    weights = jnp.where(_pairs(present), above + 0.5 * level, 0.0)
    first, second = _outer(scores)
    total = -jnp.sum(weights * log_sigmoid(first - bias * second), axis=(-2, -1))
    return total / jnp.maximum(jnp.sum(weights, axis=(-2, -1)), 1.0)


def lipo_lambda_loss(
    scores: Float[Array, "*batch K"],
    labels: Float[Array, "*batch K"],
    mask: Shaped[Array, "*batch K"],
) -> Float[Array, "*batch"]:
    """LiPO-λ: pairs of a list, each weighed by what swapping the two would change in discounted gain.

        loss = -Σ over i, j with ψᵢ > ψⱼ of Δᵢⱼ log σ(sᵢ - sⱼ)
        Δᵢⱼ = |2^ψᵢ - 2^ψⱼ| |1/log(1 + τᵢ) - 1/log(1 + τⱼ)|,   τᵢ = 1, 2, … the rank of sᵢ, best first

    Args:
      scores: sₖ of K completions of one prompt: β times log-ratios.
      labels: ψₖ of each, in [0, 1] in the paper (the probability of winning); no gradient flows through them.
      mask: 1 where there is a completion, 0 where a shorter list has none.

    Returns: a loss for each list; 0 for lists of one or none.
    Raises: InputError where the shapes differ.
    Range: slope at most Σⱼ Δᵢⱼ; scores of ±1e4 are fine, absent ones may hold anything. It jumps where two scores
      cross, and no gradient flows through ranks. Labels above 64 count as 64.
    Optimum: none: labels of a list never disagree with themselves, and scores drift apart in their order.
    Relatives: of two completions it is |2^ψ₁ - 2^ψ₂| (1/log 2 - 1/log 3) times `bradley_terry_loss`. With Δ = 1 it
      is a sum where `all_pairs_loss` has a mean.
    Elsewhere: equal scores, as all are where π = π₀, rank in the order of the list, so that the first step depends on
      it; shuffle, or skip that step. rax's `pairwise_logistic_loss` with its `dcg_lambdaweight` is K log 2 times
      this (logarithms to base 2), and the mean over pairs.
    Source: Liu et al., "LiPO: Listwise Preference Optimization through Learning-to-Rank", 2024, section 3.3
      (arXiv:2402.01878).
    """
    scores, labels, mask = aligned("lipo_lambda_loss", scores=scores, labels=labels, mask=mask)
    present = mask != 0
    scores, labels = jnp.where(present, scores, 0.0), jax.lax.stop_gradient(labels)
    first, second = _outer(scores)
    place, other_place = _outer(jnp.broadcast_to(jnp.arange(scores.shape[-1]), scores.shape))
    behind = (second > first) | ((second == first) & (other_place < place))
    ranks = 1 + jnp.sum(behind & _pairs(present), axis=-1)
    gain, other_gain = _outer(jnp.exp2(jnp.minimum(labels, 64.0)))
    discount, other_discount = _outer(1 / jnp.log1p(ranks.astype(scores.dtype)))
    counted = _pairs(present) & jnp.greater(*_outer(labels))
    weights = jnp.where(counted, (gain - other_gain) * jnp.abs(discount - other_discount), 0.0)
    return -jnp.sum(weights * log_sigmoid(first - second), axis=(-2, -1))


def _without_absent(
    scores: Float[Array, "*batch K"], present: Bool[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """Absent ones at the least finite number, not -inf, whose differences would be nan in the gradient."""
    return jnp.where(present, scores, jnp.finfo(scores.dtype).min)


def _outer(x: Shaped[Array, "*batch K"]) -> tuple[Shaped[Array, "*batch K K"], Shaped[Array, "*batch K K"]]:
    """The first and the second of every ordered pair."""
    shape = (*x.shape, x.shape[-1])
    return jnp.broadcast_to(x[..., :, None], shape), jnp.broadcast_to(x[..., None, :], shape)


def _pairs(present: Bool[Array, "*batch K"]) -> Bool[Array, "*batch K K"]:
    """Where both are there, and are two."""
    first, second = _outer(present)
    two = ~jnp.eye(present.shape[-1], dtype=bool)
    return first & second & jnp.broadcast_to(two, first.shape)
