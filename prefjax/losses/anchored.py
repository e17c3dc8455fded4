"""Losses on preference pairs that anchor each completion to the reference, and not only the two to each other."""

import jax
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.rewards.logistic import log_sigmoid
from prefjax.types import Scalar


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

    Returns: a loss in (0, 2) for each pair; 1 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β/4, and it vanishes far from π₀, on both sides.
    Optimum: none: it drifts, ever more slowly, towards the answer that wins more often.
    Relatives: `kto_loss` of the two completions with its reference point at 0 and both weights 1.
    Source: D'Oosterlinck et al., "Anchored Preference Optimization", 2024, eq. 7 (arXiv:2408.06266).
    """
    chosen_logratio, rejected_logratio = aligned(
        "apo_zero_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    # 1 - σ(z) as σ(-z), which keeps its digits where σ(z) has rounded to 1.
    return jax.nn.sigmoid(-beta * chosen_logratio) + jax.nn.sigmoid(beta * rejected_logratio)


def apo_down_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Anchored preference optimisation, "down": both down, the rejected one further.

        loss = σ(βρ⁺) + 1 - σ(β(ρ⁺ - ρ⁻)),   ρ = log π(y|x) - log π₀(y|x)

    For data whose chosen completions are worse than what the policy writes.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss in (0, 2) for each pair; 1 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β/4, and it vanishes far from π₀.
    Optimum: none: both completions drift downwards, ever more slowly.
    Relatives: its second half is 1 - e^(-DPO), the probability that a sample of the implied preference is wrong,
      where `dpo_loss` has its surprise.
    Source: D'Oosterlinck et al., "Anchored Preference Optimization", 2024, eq. 8 (arXiv:2408.06266).
    """
    chosen_logratio, rejected_logratio = aligned(
        "apo_down_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    down = jax.nn.sigmoid(beta * chosen_logratio)
    return down + jax.nn.sigmoid(-beta * (chosen_logratio - rejected_logratio))


def nca_pair_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Noise-contrastive alignment on a pair: tells each completion from a sample of the reference.

        loss = -log σ(βρ⁺) - 1/2 log σ(-βρ⁺) - 1/2 log σ(-βρ⁻),   ρ = log π(y|x) - log π₀(y|x)

    Unlike DPO it keeps the chosen completion from becoming less likely.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a loss in nats for each pair; 2 log 2 where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in ρ⁺, β/2 in ρ⁻.
    Optimum: of a pair that the first answer wins with probability p, βρ = log 2p for it and log 2(1 - p) for the
      other: their difference is that of DPO.
    Relatives: the mean of `bco_pair_loss` and of the same with the chosen completion in both places.
    Source: Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024, the NCA
      loss for K = 2 (arXiv:2402.05369).
    """
    chosen_logratio, rejected_logratio = aligned(
        "nca_pair_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    chosen, rejected = beta * chosen_logratio, beta * rejected_logratio
    noise = log_sigmoid(-chosen) + log_sigmoid(-rejected)
    return -log_sigmoid(chosen) - noise / 2


def bco_pair_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    *,
    beta: Scalar,
    shift: Scalar = 0.0,
) -> Float[Array, "*batch"]:
    """Binary classifier optimisation on a pair: the implicit reward tells thumbs up from thumbs down.

        loss = -log σ(βρ⁺ - δ) - log σ(δ - βρ⁻),   ρ = log π(y|x) - log π₀(y|x)

    The same two terms as `bco_loss` has for the two completions apart.

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.
      shift: δ, in units of reward: the paper's running mean of βρ over everything seen, see `bco_loss`. No gradient
        flows through it.

    Returns: a loss in nats for each pair; 2 log 2 where π = π₀ and δ = 0.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β.
    Optimum: βρ = δ + logit(p) for an answer that wins with probability p.
    Relatives: `bco_loss` of the two completions apart, added. With δ moved by c, and βρ of both by c, nothing changes.
    Elsewhere: TRL's `bco_pair` has no δ (0 here), and its documentation prints the formula of DPO. EasyDeL subtracts
      the batch's mean and lets a gradient through it.
    Source: Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", 2024
      (arXiv:2404.04656).
    """
    chosen_logratio, rejected_logratio = aligned(
        "bco_pair_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    shift = jax.lax.stop_gradient(shift)
    liked = log_sigmoid(beta * chosen_logratio - shift)
    return -liked - log_sigmoid(shift - beta * rejected_logratio)


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
    Range: everywhere; the slope, 2(ρ ∓ 1/(2β)), grows with ρ and with 1/β.
    Optimum: ρ = ±(p - 1/2)/β for the two answers of which the first wins with probability p.
    Relatives: `sppo_loss` with win rates 1 and 0. It is half of `ipo_loss` with β/2 for β, plus (ρ⁺ + ρ⁻)²/2: IPO, and
      an anchor for the sum.
    Source: Wu et al., "Self-Play Preference Optimization", 2024, eq. 4.7 with P in {0, 1} (arXiv:2405.00675).
    """
    chosen_logratio, rejected_logratio = aligned(
        "sppo_hard_loss", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return (chosen_logratio - 1 / (2 * beta)) ** 2 + (rejected_logratio + 1 / (2 * beta)) ** 2


def sppo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    chosen_win_rate: Float[Array, "*batch"],
    rejected_win_rate: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """Self-play preference optimisation: each log-ratio is regressed on how often its completion wins.

        loss = (ρ⁺ - (P⁺ - 1/2)/β)² + (ρ⁻ - (P⁻ - 1/2)/β)²,   P = P(y ≻ π₀ | x),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of one completion, summed over its tokens, in nats; π₀ is the previous iterate.
      rejected_logratio: ρ⁻ of another one. (Which is called chosen does not matter here.)
      chosen_win_rate: P⁺ in [0, 1], against samples of π₀; see `sample_win_rates`. Held fixed.
      rejected_win_rate: P⁻.
      beta: β > 0, the paper's 1/η; its experiments have 0.001.

    Returns: a loss in nats² for each pair; ((P⁺ - 1/2)² + (P⁻ - 1/2)²)/β² where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; the slope, 2(ρ - (P - 1/2)/β), grows with ρ and with 1/β.
    Optimum: ρ = (P - 1/2)/β for each completion: π₀ exp(P/β), but with e^(1/(2β)) in place of its normaliser, so
      that a policy, which sums to 1, can meet it only nearly.
    Relatives: with win rates 1 and 0 `sppo_hard_loss`. `dno_loss` regresses the same win rates by differences,
      which needs no normaliser.
    Source: Wu et al., "Self-Play Preference Optimization", 2024, eq. 4.7 (arXiv:2405.00675).
    """
    chosen_logratio, rejected_logratio, *win_rates = aligned(
        "sppo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        chosen_win_rate=chosen_win_rate,
        rejected_win_rate=rejected_win_rate,
    )
    chosen_target, rejected_target = ((jax.lax.stop_gradient(p) - 1 / 2) / beta for p in win_rates)
    return (chosen_logratio - chosen_target) ** 2 + (rejected_logratio - rejected_target) ** 2
