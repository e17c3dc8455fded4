"""Losses of judges that compare: a reward for each of two completions, or one preference for both."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned, one_each
from prefjax.rewards.logistic import log_sigmoid, logistic_cross_entropy
from prefjax.types import Scalar


def bradley_terry_loss(
    chosen_reward: Float[Array, "*batch"],
    rejected_reward: Float[Array, "*batch"],
    *,
    margin: Scalar | Float[Array, "*batch"] = 0.0,
    label_smoothing: Scalar | Float[Array, "*batch"] = 0.0,
) -> Float[Array, "*batch"]:
    """Maximum likelihood of comparisons under Bradley and Terry's model.

        loss = -(1 - ε) log σ(d) - ε log σ(-d),   d = r(x, y⁺) - r(x, y⁻) - m

    Args:
      chosen_reward: r(x, y⁺) of the preferred completion.
      rejected_reward: r(x, y⁻) of the other one.
      margin: m, one for all or one a pair, in units of reward; subtracted from the difference, so that a
        positive one asks for more.
      label_smoothing: ε, the weight of the opposite label, one for all, in [0, 1/2), or one a pair, in [0, 1]:
        1 - q where q is the probability that the label is right, 1 where the label is to be flipped.

    Returns: a loss in nats for each pair; log 2 where the rewards are equal and m = 0.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is at most max(ε, 1 - ε); differences of ±1e4 are fine.
    Optimum: with m = 0, r(x, y) - r(x, y') = logit(p) for a pair of which the first wins with probability p.
      Smoothing makes it logit(ε + (1 - 2ε)p), so that labels which never disagree end at log((1 - ε)/ε) and not
      at infinity. Only differences at one prompt are identified; `centring_term` fixes the rest.
    Relatives: `dpo_loss` at β = 1 of log-ratios in place of rewards; `plackett_luce_loss` of two;
      `noise_corrected_bradley_terry_loss`, which undoes flips rather than capping confidence; `thurstone_loss`
      with normal in place of logistic noise. With `soft_label` and `preference_strength` of `prefjax.rewards`:
      ε = 1 - soft_label(μ) and m = μ are the soft labels and adaptive margins of Secrets of RLHF II.
    Elsewhere: TRL's RewardTrainer takes m from a column `margin` and has no smoothing. Code that adds the margin
      relaxes the loss. MOSS-RLHF writes -log(σ(d) + 1e-5), which at d = -20 is 11.5 with hardly any gradient.
    Source: Bradley and Terry, "Rank Analysis of Incomplete Block Designs", 1952; Ouyang et al., "Training
      language models to follow instructions with human feedback", 2022, eq. 1 (arXiv:2203.02155). The margin:
      Touvron et al., "Llama 2", 2023, eq. 2 (arXiv:2307.09288).
    """
    chosen_reward, rejected_reward, m, epsilon = aligned(
        "bradley_terry_loss",
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
        margin=one_each(margin, chosen_reward),
        label_smoothing=one_each(label_smoothing, chosen_reward),
    )
    d = chosen_reward - rejected_reward - m
    return logistic_cross_entropy(d, wrong=epsilon)


def noise_corrected_bradley_terry_loss(
    chosen_reward: Float[Array, "*batch"],
    rejected_reward: Float[Array, "*batch"],
    *,
    flip_probability: Scalar | Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Maximum likelihood where a known share of the labels is flipped: the flip is part of the model.

        loss = -log((1 - ε) σ(d) + ε σ(-d)),   d = r(x, y⁺) - r(x, y⁻)

    Args:
      chosen_reward: r(x, y⁺) of the completion that the label prefers.
      rejected_reward: r(x, y⁻) of the other one.
      flip_probability: ε in [0, 1/2), known beforehand, one for all or one a pair.

    Returns: a loss in nats for each pair, between -log(1 - ε) and -log ε; log 2 where the rewards are equal.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is at most (√(1 - ε) - √ε)/(√(1 - ε) + √ε) and vanishes on both sides: a pair
      that the model holds to be flipped is let go. Differences of ±1e4 are fine.
    Optimum: with labels flipped at the rate ε, the difference logit(p) of the clean labels' probability p; a
      single pair pulls to infinity.
    Relatives: ε = 0 is `bradley_terry_loss`. The smoothing there has its optimum at log((1 - ε)/ε) for clean
      labels; `robust_dpo_loss` is unbiased for the clean loss in place of the likelihood of the noisy labels.
    Source: Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach",
      2017, forward correction (arXiv:1609.03683), of `bradley_terry_loss`.
    """
    chosen_reward, rejected_reward, epsilon = aligned(
        "noise_corrected_bradley_terry_loss",
        chosen_reward=chosen_reward,
        rejected_reward=rejected_reward,
        flip_probability=one_each(flip_probability, chosen_reward),
    )
    d = chosen_reward - rejected_reward
    # log σ(d) + log((1 - ε) + ε e⁻ᵈ) on the right, its mirror image on the left: no exponent is positive.
    right, wrong = jnp.where(d >= 0, 1 - epsilon, epsilon), jnp.where(d >= 0, epsilon, 1 - epsilon)
    tail = jnp.exp(-jnp.where(d >= 0, d, -d))
    mixed = right + wrong * tail
    # ε = 0 far on the wrong side is -d itself, which the mixture would round to -log 0.
    plain = epsilon == 0
    return jnp.where(plain, -log_sigmoid(d), jnp.log1p(tail) - jnp.log(jnp.where(plain, 1.0, mixed)))


def centring_term(
    chosen_reward: Float[Array, "*batch"], rejected_reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Draws the sum of the two rewards of a pair to zero, which a loss on differences leaves open.

        term = (r(x, y⁺) + r(x, y⁻))²

    To be added to `bradley_terry_loss` with a small coefficient.

    Args:
      chosen_reward: r(x, y⁺).
      rejected_reward: r(x, y⁻).

    Returns: a term in reward² for each pair; the coefficient is the caller's, TRL recommends 0.01.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is 2|r⁺ + r⁻|, without bound; finite to 1e19.
    Optimum: r⁺ = -r⁻. It acts on the sum alone and leaves every difference, so added to `bradley_terry_loss` it
      changes no preference and fixes the zero of each pair.
    Relatives: `score_l2_term`, of which it is twice less the squared difference,
      (r⁺ + r⁻)² = 2 (r⁺² + r⁻²) - (r⁺ - r⁻)².
    Elsewhere: TRL's `center_rewards_coefficient`, None by default. Open-Assistant and PAR's "Reg" penalise
      r⁺² + r⁻² instead: `score_l2_term`.
    Source: Eisenstein et al., "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward
      Hacking", 2023, eq. 2 (arXiv:2312.09244), as TRL cites it.
    """
    chosen_reward, rejected_reward = aligned(
        "centring_term", chosen_reward=chosen_reward, rejected_reward=rejected_reward
    )
    return (chosen_reward + rejected_reward) ** 2


def score_l2_term(
    chosen_reward: Float[Array, "*batch"], rejected_reward: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Draws both rewards of a pair to zero, and their difference with them.

        term = r(x, y⁺)² + r(x, y⁻)²

    To be added to `bradley_terry_loss` with a small coefficient.

    Args:
      chosen_reward: r(x, y⁺).
      rejected_reward: r(x, y⁻).

    Returns: a term in reward² for each pair; the coefficient is the caller's: 0.005 in PAR, 0.001 in
      Open-Assistant.
    Raises: InputError where the shapes differ.
    Range: the slope in each reward is 2|r|, without bound; finite to 1e19.
    Optimum: both 0. Added to `bradley_terry_loss` with coefficient c it also keeps differences finite: the sum of
      the rewards is 0, and their difference d solves σ(-d) = c d.
    Relatives: `centring_term`, which leaves the difference free.
    Source: Fu et al., "Reward Shaping to Mitigate Reward Hacking in RLHF", 2025, the baseline "Reg"
      (arXiv:2502.18770).
    """
    chosen_reward, rejected_reward = aligned(
        "score_l2_term", chosen_reward=chosen_reward, rejected_reward=rejected_reward
    )
    return chosen_reward**2 + rejected_reward**2


def preference_model_loss(
    score: Float[Array, "*batch"],
    swapped_score: Float[Array, "*batch"],
    *,
    target: Scalar | Float[Array, "*batch"] = 1.0,
) -> Float[Array, "*batch"]:
    """Cross-entropy of a two-input preference model, antisymmetric by construction.

        loss = -q log P - (1 - q) log(1 - P),   P(y ≻ y'|x) = σ((s(x, y, y') - s(x, y', y)) / 2)

    Swapping y and y' turns P into 1 - P exactly, whatever s is; cycles y ≻ y' ≻ y'' ≻ y are possible, which
    no reward can represent.

    Args:
      score: s(x, y, y'), the model's number for y read before y'.
      swapped_score: s(x, y', y), the same model with the two in the other order.
      target: q = P(y ≻ y'|x) in [0, 1] by the label; 1 where y is the preferred one, 1/2 for a tie.

    Returns: a loss in nats for each pair; log 2 where the scores agree.
    Raises: InputError where the shapes differ.
    Range: the slope in each score is at most 1/2; scores of ±1e4 are fine.
    Optimum: P = q, where the loss is the entropy of q. Of s only the antisymmetric part is learned.
    Relatives: `bradley_terry_loss` where s(x, y, y') = r(x, y) - r(x, y'); `two_input_probability` of
      `prefjax.rewards` is its P.
    Elsewhere: RLHFlow's pairwise model averages the probabilities of both orders, not their logits: antisymmetric
      as well, and another number (0.6836 in place of 0.6900 at s = 1.2 and -0.4).
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 3 (arXiv:2312.00886), for
      learning P by cross-entropy. The antisymmetric logit is derived.
    """
    score, swapped_score, q = aligned(
        "preference_model_loss", score=score, swapped_score=swapped_score, target=one_each(target, score)
    )
    logit = (score - swapped_score) / 2
    return logistic_cross_entropy(logit, wrong=1 - q)
