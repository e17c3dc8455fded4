"""Losses of judges: a reward for each completion, or one preference for two of them."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned, one_each
from prefjax.types import Scalar


def bradley_terry_loss(
    chosen_reward: Float[Array, "*batch"],
    rejected_reward: Float[Array, "*batch"],
    *,
    margin: Scalar | Float[Array, "*batch"] = 0.0,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Maximum likelihood of comparisons under Bradley and Terry's model.

        loss = -(1 - ε) log σ(d) - ε log σ(-d),   d = r(x, y⁺) - r(x, y⁻) - m

    Only differences at one prompt are identified: a constant added to both rewards changes nothing.

    Args:
      chosen_reward: r(x, y⁺) of the preferred completion.
      rejected_reward: r(x, y⁻) of the other one.
      margin: m >= 0, one for all or one a pair; subtracted from the difference, as in TRL, so that it asks
        for more. Code that adds it relaxes the loss instead.
      label_smoothing: ε in [0, 1/2), the weight of the opposite label; it caps d at log((1 - ε)/ε).

    Returns: a loss in nats for each pair; log 2 where the rewards are equal and m = 0.
    Raises: InputError where the shapes differ.
    Source: Bradley and Terry, "Rank Analysis of Incomplete Block Designs", 1952; Ouyang et al., "Training
      language models to follow instructions with human feedback", 2022, eq. 1 (arXiv:2203.02155). The margin:
      Touvron et al., "Llama 2", 2023, eq. 2 (arXiv:2307.09288).
    """
    chosen_reward, rejected_reward, m = aligned(
        "bradley_terry_loss",
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
        margin=one_each(margin, chosen_reward),
    )
    # Not -log(σ(·) + 1e-5), which is flat where the model is badly wrong.
    d = chosen_reward - rejected_reward - m
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(d) - label_smoothing * jax.nn.log_sigmoid(-d)


def preference_model_loss(
    score: Float[Array, "*batch"],
    swapped_score: Float[Array, "*batch"],
    *,
    target: Scalar | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy of a two-input preference model, antisymmetric by construction.

        loss = -q log P - (1 - q) log(1 - P),   P(y ≻ y'|x) = σ((s(x, y, y') - s(x, y', y)) / 2)

    Swapping y and y' turns P into 1 - P exactly, whatever s is; cycles y ≻ y' ≻ y'' ≻ y are possible, which
    no reward can represent. Averaging the probabilities of both orders would be antisymmetric as well, and is
    another model.

    Args:
      score: s(x, y, y'), the model's number for y read before y'.
      swapped_score: s(x, y', y), the same model with the two in the other order.
      target: q = P(y ≻ y'|x) in [0, 1] by the label; 1 where y is the preferred one, 1/2 for a tie.

    Returns: a loss in nats for each pair; log 2 where the scores agree. It is least, and then the entropy of
      q, where P = q.
    Raises: InputError where the shapes differ.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 3 (arXiv:2312.00886), for
      learning P by cross-entropy. The antisymmetric logit is derived.
    """
    score, swapped_score, q = aligned(
        "preference_model_loss", score=score, swapped_score=swapped_score, target=one_each(target, score)
    )
    logit = (score - swapped_score) / 2
    return -q * jax.nn.log_sigmoid(logit) - (1 - q) * jax.nn.log_sigmoid(-logit)
