"""Losses on preference pairs by the difference of their log-ratios: which of the two was liked, and no more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid, logistic_cross_entropy
from prefjax.types import Scalar


def dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    label_smoothing: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Direct preference optimisation; with label smoothing, conservative DPO (cDPO).

        loss = -(1 - ε) log σ(z) - ε log σ(-z),   z = β(ρ⁺ - ρ⁻),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion: how much likelier the policy π makes it
        than the frozen reference π₀ does, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀. Traced, so a sweep compiles once.
      label_smoothing: ε in [0, 1/2), the probability that a label is wrong. It caps the confidence, at
        z = log((1 - ε)/ε), and does not undo the flips; `robust_dpo_loss` does.

    Returns: a loss in nats for each pair; log 2 where π = π₀, about -β(ρ⁺ - ρ⁻) where π is badly wrong.
    Raises: InputError where the shapes differ; log-probabilities are checked where they are made, β where
      the config is.
    Range: everywhere; slope at most β; log-ratios of ±1e4 are fine.
    Optimum: π₀ exp(r/β) under Bradley-Terry labels: ρ⁺ - ρ⁻ = logit(p)/β for a pair of which the first wins with
      probability p. With smoothing logit((1 - ε)p + ε(1 - p))/β. Where no label of a pair disagrees: none, it
      drifts.
    Relatives: near ρ⁺ = ρ⁻ it is a squared loss, a constant and (z - 2)²/8, so β²/8 times `ipo_loss` with β/4 in
      place of its β. Where the reference is uniform, `cpo_loss`. Smoothed, and less the entropy of the labels, it
      is the KL divergence of which `exo_pair_loss` is the other direction.
    Elsewhere: TRL's `sigmoid` ignores its `label_smoothing`; the DPO authors' code, EasyLM, EasyDeL, Tunix, OpenRLHF
      and open-instruct apply it. The `dpo_loss` of purejaxrl and Stoix is Discovered Policy Optimisation, another
      method.
    Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 7 (arXiv:2305.18290). The smoothing:
      Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    chosen_logratio, rejected_logratio = aligned(
        "dpo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    # Not log(sigmoid(·)): in float32 that is -inf, and its gradient nan, for arguments below -88.
    z = beta * (chosen_logratio - rejected_logratio)
    return logistic_cross_entropy(z, wrong=label_smoothing)


def ipo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Identity preference optimisation: a square loss, which has an optimum also where labels never disagree.

        loss = (ρ⁺ - ρ⁻ - 1/(2β))²,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, in nats. Sum or average over its tokens is the caller's
        choice, and another loss.
      rejected_logratio: ρ⁻ of the other one, summed or averaged likewise.
      beta: β > 0, the paper's τ. With averages it has to be larger by the typical length.

    Returns: a loss in nats² for each pair; 1/(4β²) where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; the slope, 2(ρ⁺ - ρ⁻ - 1/(2β)), grows with the margin and with 1/β.
    Optimum: ρ⁺ - ρ⁻ = (p - 1/2)/β for a pair of which the first wins with probability p; finite also where labels
      never disagree, 1/(2β) then.
    Relatives: `dpo_loss` near π = π₀, with β four times as large there. `sppo_hard_loss` is half of this with β/2
      for β, plus (ρ⁺ + ρ⁻)²/2.
    Elsewhere: the paper's equation sums over tokens, as do the DPO authors' code, EasyLM, OpenRLHF and TRL's online
      trainers; the paper's experiments, TRL's DPO, EasyDeL and HALOs divide each log-ratio by its own completion's
      length: `ipo_loss(chosen_logratio / chosen_length, rejected_logratio / rejected_length, beta=…)`.
    Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023,
      eq. 17 (arXiv:2310.12036).
    """
    chosen_logratio, rejected_logratio = aligned(
        "ipo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return (chosen_logratio - rejected_logratio - 1 / (2 * beta)) ** 2


def hinge_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """The hinge on a normalised likelihood: pairs that are right by the margin 1/β are left alone.

        loss = max(0, 1 - β(ρ⁺ - ρ⁻)),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, the inverse of the margin in nats (RSO's γ).

    Returns: a loss for each pair; 1 where π = π₀. Its gradient is 0 at the kink, as in torch.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope β or 0.
    Optimum: ρ⁺ - ρ⁻ = 1/β for the answer that wins more often, however much more often.
    Relatives: `dpo_loss` stays within 1 of it, and has no margin at which it stops.
    Elsewhere: TRL's `hinge` and EasyDeL's are this. SLiC-HF itself compares likelihoods without a reference.
    Source: Liu et al., "Statistical Rejection Sampling Improves Preference Optimization", 2023, hinge-norm
      (arXiv:2309.06657), after Zhao et al., "SLiC-HF", 2023 (arXiv:2305.10425), which has no reference.
    """
    chosen_logratio, rejected_logratio = aligned(
        "hinge_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return jax.nn.relu(1 - beta * (chosen_logratio - rejected_logratio))


def robust_dpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    label_smoothing: Scalar,
) -> Float[Array, "*batch"]:
    """Provably robust DPO: the expectation over labels flipped with probability ε is DPO on the true ones.

        loss = (-(1 - ε) log σ(z) + ε log σ(-z)) / (1 - 2ε),   z = β(ρ⁺ - ρ⁻)

    Args:
      chosen_logratio: ρ⁺ = log π(y|x) - log π₀(y|x) of the completion that the label prefers, summed over its
        tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.
      label_smoothing: ε in [0, 1/2), the flip rate, known beforehand.

    Returns: a loss in nats for each pair, unbounded below as z grows (a single pair may be a flipped one);
      log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope from βε/(1 - 2ε) for a pair that is right to β(1 - ε)/(1 - 2ε) for a wrong one, never 0.
    Optimum: that of DPO on labels without flips: ρ⁺ - ρ⁻ = logit((p - ε)/(1 - 2ε))/β where p is how often the first
      wins by the labels one sees; none, it drifts, where that is not between 0 and 1.
    Relatives: with ε = 0 `dpo_loss`; so is 1 - ε times this and ε times this of the pair reversed. `dpo_loss` with
      the same ε shrinks instead, and does not correct.
    Source: Chowdhury et al., "Provably Robust DPO", 2024 (arXiv:2403.00409).
    """
    chosen_logratio, rejected_logratio = aligned(
        "robust_dpo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    z = beta * (chosen_logratio - rejected_logratio)
    # log σ(-z) is log σ(z) - z.
    return -log_sigmoid(z) - label_smoothing / (1 - 2 * label_smoothing) * z


def exo_pair_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    label_smoothing: Scalar,
) -> Float[Array, "*batch"]:
    """Efficient exact optimisation on a pair: the reverse KL divergence to smoothed labels.

        loss = q log(q/(1 - ε)) + (1 - q) log((1 - q)/ε),   q = σ(z),   z = β(ρ⁺ - ρ⁻)

    DPO minimises the other direction, from labels to policy; that one covers, this one seeks the mode.

    Args:
      chosen_logratio: ρ⁺ = log π(y|x) - log π₀(y|x) of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀; the paper's β_π, with β_r inside its labels.
      label_smoothing: ε in (0, 1/2). It cannot be 0, where the loss is infinite; TRL's users are told 1e-3.

    Returns: a loss in nats for each pair; 0 at σ(z) = 1 - ε, where it rests.
    Raises: InputError where the shapes differ.
    Range: everywhere, for ε > 0. The slope is βq(1 - q)(z - log((1 - ε)/ε)), at most β(0.224 + log((1 - ε)/ε)/4): it
      vanishes far from π₀, also on the wrong side.
    Optimum: ρ⁺ - ρ⁻ = (2p - 1) log((1 - ε)/ε)/β for a pair of which the first wins with probability p.
    Relatives: KL(q‖labels), where `dpo_loss` with the same ε is KL(labels‖q) and the labels' entropy.
    Elsewhere: TRL's is this one and refuses ε = 0; EasyDeL's cannot be compiled.
    Source: Ji et al., "Towards Efficient Exact Optimization of Language Model Alignment", 2024, eq. 16
      (arXiv:2402.00856).
    """
    chosen_logratio, rejected_logratio = aligned(
        "exo_pair_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    z = beta * (chosen_logratio - rejected_logratio)
    log_right = log_sigmoid(z)
    right = jax.nn.sigmoid(z) * (log_right - jnp.log1p(-label_smoothing))
    wrong = jax.nn.sigmoid(-z) * (log_right - z - jnp.log(label_smoothing))
    return right + wrong


def discopop_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    temperature: Scalar = 0.05,
) -> Float[Array, "*batch"]:
    """DiscoPOP, the loss that a language model proposed: logistic where a pair is wrong, exponential where right.

        loss = -(1 - μ) log σ(z) + μ e⁻ᶻ,   μ = σ(z/τ),   z = β(ρ⁺ - ρ⁻)

    Not convex: with τ = 0.05 there is a local minimum at z = -0.12 and a hump at z = 0.07.

    Args:
      chosen_logratio: ρ⁺ = log π(y|x) - log π₀(y|x) of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.
      temperature: τ in (0, 1], 0.05 in the paper.

    Returns: a loss for each pair; (1 + log 2)/2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; at τ = 0.05 the slope in z runs from -1, for a pair that is badly wrong, to 0.82, before the
      hump.
    Optimum: no closed form; with τ = 0.05, ρ⁺ - ρ⁻ = 1.5745/β for a pair of which the first wins with probability
      0.8 (DPO: 1.3863/β).
    Relatives: far on the wrong side `dpo_loss`, far on the right side e⁻ᶻ.
    Elsewhere: TRL's `discopop_tau` is 0.05 too; EasyDeL's default is 1.
    Source: Lu et al., "Discovering Preference Optimization Algorithms with and for Large Language Models", 2024,
      eq. 5 (arXiv:2406.08414).
    """
    chosen_logratio, rejected_logratio = aligned(
        "discopop_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    z = beta * (chosen_logratio - rejected_logratio)
    t = z / temperature
    # μ is σ(t), and eᵗ σ(-t). One exponent: where z is very negative, eᵗ underflows faster than e⁻ᶻ overflows.
    exponential = jnp.exp(jnp.where(t < 0, t, 0.0) - z) * jax.nn.sigmoid(jnp.where(t < 0, -t, t))
    return exponential - jax.nn.sigmoid(-t) * log_sigmoid(z)
