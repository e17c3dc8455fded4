"""Objectives on a rollout with advantages: GRPO and its relatives, RLOO, REINFORCE."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from prefjax.align.advantages import rollout_metrics
from prefjax.align.grpo import Level, LossType, clip_range, clip_regions, grpo_terms
from prefjax.checks import require
from prefjax.losses import ppo_clip_loss, reinforce_loss
from prefjax.policy import Policy, hidden_states, predicted_logps_and_entropies, predictions
from prefjax.types import Scalar, Weighted


def grpo_objective(
    policy: Policy,
    *,
    max_new_tokens: int,
    loss_type: LossType = "dapo",
    importance_sampling_level: Level = "token",
    beta: float = 0.0,
    use_bias_correction_kl: bool = True,
    epsilon: float | None = None,
    epsilon_high: float | None = None,
    delta: float | None = None,
    loss_settings: Mapping[str, Scalar] = {},
    temperature: float = 1.0,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for what `add_grpo_advantages` has finished.

        ℓₜ = -min(min(ρₜ, δ) A, clip(ρₜ, 1 - ε, 1 + ε_high) A) + β ρₜ (e⁻ᵏ - 1 + k),   k = log π - log π₀
        cispo, sapo, vespo, gmpo: the first term is that of their loss in `prefjax.losses`

    and the loss is an average of ℓₜ over the tokens of a whole optimiser step:

        grpo, gspo, sapo, gmpo   Σᵢ (Σₜ ℓᵢₜ / |yᵢ|) / number of sequences
        bnpo                     Σᵢₜ ℓᵢₜ / number of tokens of this update
        dapo, cispo, vespo       Σᵢₜ ℓᵢₜ / (number of sequences of this update · mean length in the whole rollout)
        dr_grpo                  Σᵢₜ ℓᵢₜ / (number of sequences · max_new_tokens)
        luspo                    Σᵢₜ ℓᵢₜ / number of sequences

    Where a rollout is one update bnpo and dapo are the same: TRL's bnpo averages averages of microbatches, which
    depends on how they were cut. Sequences that are masked count in the number of sequences, as in TRL.

    Args:
      loss_type: TRL's names; gspo and gmpo, which have none there, are its `importance_sampling_level="sequence"` and
        its GMPOTrainer.
      importance_sampling_level: "sequence" takes the geometric mean of a completion's ratios for ρ. LUSPO is "luspo"
        with that; gspo is "grpo" with that, and gmpo and vespo have ratios of their own.
      beta: β, needs `reference_logps` unless 0.
      use_bias_correction_kl: False leaves ρ out of the KL term, whose gradient then is that of KL(π₀‖π): the
        estimate of GRPO's paper, TRL's before 1.16, and that of TRL's GMPOTrainer always.
      epsilon: ε, 0.2 unless given; for gmpo 0.4 nats, for gspo 3e-4 beside 4e-4.
      epsilon_high: ε unless given; 0.28 in DAPO. For cispo the cap itself, 5 for one.
      delta: δ > 1 + ε_high; none unless given.
      loss_settings: what else `sapo_loss` or `vespo_loss` takes.
      temperature: that was sampled at.

    On the first update after a rollout `ratio` is 1 and nothing is clipped. `kl` is the mean of the KL term.
    Raises: InputError for cispo without its cap.
    Source: Shao et al., "DeepSeekMath", 2024 (arXiv:2402.03300); Yu et al., "DAPO", 2025 (arXiv:2503.14476); Liu et
      al., "Understanding R1-Zero-Like Training", 2025 (arXiv:2503.20783); "MiniMax-M1", 2025 (arXiv:2506.13585);
      Zheng et al., "GSPO", 2025 (arXiv:2507.18071); the losses' own. Settings: TRL 1.16's GRPOConfig.
    """
    require(
        loss_type != "cispo" or epsilon_high is not None, "grpo_objective", "cispo without epsilon_high",
        "the cap of the ratio itself", "Give epsilon_high=5.0, as ScaleRL does.",
    )  # fmt: skip
    low, high = clip_range(loss_type, epsilon, epsilon_high)

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        logps, entropies, present = _forward(policy, params, rows, max_new_tokens, temperature)
        terms = grpo_terms(
            logps, jax.lax.stop_gradient(logps) if beta == 0 else rows["reference_logps"],
            rows["behaviour_logps"], rows["advantages"], present, batch["weight"], rows["learned"],
            rows["mean_length"],
            loss_type=loss_type, importance_sampling_level=importance_sampling_level, beta=beta,
            use_bias_correction_kl=use_bias_correction_kl, epsilon=low, epsilon_high=high, delta=delta,
            loss_settings=loss_settings,
        )  # fmt: skip
        loss = terms.pop("loss")
        mask = present * (batch["weight"] * rows["learned"])[:, None]
        entropy = Weighted.tokens(entropies, mask)
        return {**rollout_metrics(batch), **terms, "entropy": entropy, "loss": loss}

    return objective


def rloo_objective(
    policy: Policy,
    *,
    max_new_tokens: int,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    temperature: float = 1.0,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for what `add_rloo_advantages` has finished.

        loss = -min(ρA, clip(ρ, 1 - ε, 1 + ε_high) A),   ρ = π(y|x) / π_b(y|x) of the whole completion

    The mean over sequences. At ρ = 1 its mean gradient is -∇(E[R] - β KL(π‖π₀)), exactly. As in TRL, ρ is the
    product of all tokens' ratios: of long completions it leaves the clip soon.
    Source: Ahmadian et al., "Back to Basics", 2024 (arXiv:2402.14740); TRL 1.16's RLOOTrainer.
    """
    high = epsilon if epsilon_high is None else epsilon_high

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        logps, entropies, present = _forward(policy, params, rows, max_new_tokens, temperature)
        summed, behaviour, advantages = _sequences(batch, logps, present)
        weight = batch["weight"]
        losses = ppo_clip_loss(summed, behaviour, advantages, epsilon_low=epsilon, epsilon_high=high)
        ratio = jnp.exp(jax.lax.stop_gradient(summed) - behaviour)
        measured = {"ratio": ratio, **clip_regions(ratio, advantages, epsilon, high)}
        return {
            **rollout_metrics(batch),
            **_kl_of_rollout(batch, present),
            **{name: Weighted.of(values.astype(jnp.float32), weight) for name, values in measured.items()},
            "entropy": Weighted.tokens(entropies, present * weight[:, None]),
            "loss": Weighted.of(losses, weight),
        }

    return objective


def reinforce_objective(policy: Policy, *, max_new_tokens: int, temperature: float = 1.0) -> Callable:
    """`params, batch, key -> dict of Weighted`: -A log π(y|x), for what `add_rloo_advantages` has finished.

    On-policy only: one update a rollout, whose first `ratio` is 1.
    Source: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
      Learning", 1992.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        logps, entropies, present = _forward(policy, params, rows, max_new_tokens, temperature)
        summed, behaviour, advantages = _sequences(batch, logps, present)
        weight = batch["weight"]
        ratio = jnp.exp(jax.lax.stop_gradient(summed) - behaviour)
        return {
            **rollout_metrics(batch),
            **_kl_of_rollout(batch, present),
            "ratio": Weighted.of(ratio, weight),
            "entropy": Weighted.tokens(entropies, present * weight[:, None]),
            "loss": Weighted.of(reinforce_loss(summed, advantages), weight),
        }

    return objective


def _forward(policy, params, rows, max_new_tokens, temperature):
    """Log-probabilities and entropies of completion tokens, and where there are any."""
    hidden = hidden_states(policy, params, rows["tokens"], rows["lengths"])
    at = predictions(
        hidden, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=max_new_tokens
    )
    logps, entropies = predicted_logps_and_entropies(policy, params, at, temperature=temperature)
    return logps, entropies, at.mask


def _sequences(batch, logps, present):
    """Sums over tokens and advantages; of rows that nothing is learned from, numbers without a gradient."""
    rows = batch["completion"]
    summed = jnp.sum(logps * present, axis=-1)
    behaviour = jnp.sum(jnp.where(present > 0, rows["behaviour_logps"], 0.0), axis=-1)
    learned = batch["weight"] * rows["learned"] > 0
    behaviour = jnp.where(learned, behaviour, jax.lax.stop_gradient(summed))
    return summed, behaviour, jnp.where(learned, rows["advantages"], 0.0)


def _kl_of_rollout(batch, present) -> dict[str, Weighted]:
    """The mean over tokens of log π_b - log π₀, which the reward has paid for."""
    rows = batch["completion"]
    if "reference_logps" not in rows:
        return {}
    k = rows["behaviour_logps"] - rows["reference_logps"]
    return {"kl": Weighted.tokens(k, present * batch["weight"][:, None])}
