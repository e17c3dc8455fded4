"""Losses on preference pairs: two completions, and which of them was liked."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
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
        z = log((1 - ε)/ε), and does not undo the flips; `robust_dpo_loss` does. TRL's `sigmoid` loss ignores
        its `label_smoothing`; the DPO authors' code, EasyLM and this function apply it.

    Returns: a loss in nats for each pair; log 2 where π = π₀, about -β(ρ⁺ - ρ⁻) where π is badly wrong.
    Raises: InputError where the shapes differ; log-probabilities are checked where they are made, β where
      the config is.
    Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 7 (arXiv:2305.18290). The smoothing:
      Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    chosen_logratio, rejected_logratio = aligned(
        "dpo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    # Not log(sigmoid(·)): in float32 that is -inf, and its gradient nan, for arguments below -88.
    z = beta * (chosen_logratio - rejected_logratio)
    return -(1 - label_smoothing) * jax.nn.log_sigmoid(z) - label_smoothing * jax.nn.log_sigmoid(-z)


def ipo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Identity preference optimisation: a square loss, which has an optimum also where labels never disagree.

        loss = (ρ⁺ - ρ⁻ - 1/(2β))²,   ρ = log π(y|x) - log π₀(y|x)

    For one pair of answers of which the first wins with probability p, ρ⁺ - ρ⁻ = (p - 1/2)/β at the optimum.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, in nats. Sum or average over its tokens is the caller's
        choice, and another loss: the paper's equation has the sum; the authors' experiments, TRL and HALOs
        divide each log-ratio by its own completion's length; TRL's online trainers and EasyLM sum.
      rejected_logratio: ρ⁻ of the other one, summed or averaged likewise.
      beta: β > 0, the paper's τ. With averages it has to be larger by the typical length.

    Returns: a loss in nats² for each pair; 1/(4β²) where π = π₀.
    Raises: InputError where the shapes differ.
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
      label_smoothing: ε in [0, 1/2), the flip rate, known beforehand. At ε = 0 this is DPO.

    Returns: a loss in nats for each pair, unbounded below as z grows (a single pair may be a flipped one);
      log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Source: Chowdhury et al., "Provably Robust DPO", 2024 (arXiv:2403.00409).
    """
    chosen_logratio, rejected_logratio = aligned(
        "robust_dpo_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    z = beta * (chosen_logratio - rejected_logratio)
    as_labelled, flipped = -jax.nn.log_sigmoid(z), -jax.nn.log_sigmoid(-z)
    return ((1 - label_smoothing) * as_labelled - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def apo_zero_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Anchored preference optimisation, "zero": the chosen one up and the rejected one down, each for itself.

        loss = 1 - σ(βρ⁺) + σ(βρ⁻),   ρ = log π(y|x) - log π₀(y|x)

    For data whose chosen completions are better than what the policy writes.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss in (0, 2) for each pair; 1 where π = π₀. The gradient vanishes far from π₀, on both sides.
    Raises: InputError where the shapes differ.
    Source: D'Oosterlinck et al., "Anchored Preference Optimization", 2024, eq. 7 (arXiv:2408.06266).
    """
    chosen_logratio, rejected_logratio = aligned(
        "apo_zero_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    # 1 - σ(z) as σ(-z), which keeps its digits where σ(z) has rounded to 1.
    return jax.nn.sigmoid(-beta * chosen_logratio) + jax.nn.sigmoid(beta * rejected_logratio)


def sppo_hard_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Self-play preference optimisation with hard labels: each log-ratio is regressed on its win or loss.

        loss = (ρ⁺ - 1/(2β))² + (ρ⁻ + 1/(2β))²,   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the winner, summed over its tokens, in nats; π₀ is the previous iterate.
      rejected_logratio: ρ⁻ of the loser.
      beta: β > 0, the paper's 1/η; its experiments have 0.001.

    Returns: a loss in nats² for each pair; 1/(2β²) where π = π₀.
    Raises: InputError where the shapes differ.
    Source: Wu et al., "Self-Play Preference Optimization", 2024, eq. 4.7 with P in {0, 1} (arXiv:2405.00675).
    """
    chosen_logratio, rejected_logratio = aligned(
        "sppo_hard_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return (chosen_logratio - 1 / (2 * beta)) ** 2 + (rejected_logratio + 1 / (2 * beta)) ** 2
