"""Rows of the agreement table: policy gradients, divergences, values and advantages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers import of_jax, of_torch, of_trl
from experiments.benchmarks.peers.batches import GROUP
from experiments.benchmarks.peers.measuring import Batch, Row
from prefjax import losses, returns, rewards
from prefjax.types import Weighted

WINDOW = 16  # the constant of Dr. GRPO


def window(values: Any, mask: Any) -> Weighted:
    return Weighted.constant(values, mask, WINDOW)


def on_tokens(
    loss: Callable[..., Any], by: Any = Weighted.sequences, **settings: Any
) -> Callable[[Batch], Any]:
    """A loss on tokens, and its average."""

    def mean(batch: Batch) -> Any:
        advantages = jnp.broadcast_to(batch["advantages"][:, None], batch["logps"].shape)
        arguments: tuple[Any, ...] = batch["logps"], batch["behaviour_logps"], advantages
        if loss is losses.gspo_token_loss:
            arguments += (batch["mask"],)
        return by(loss(*arguments, **settings), batch["mask"]).mean()

    return mean


def on_sequences(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """A loss on sequences that takes tokens and their mask; on tokens again, it is averaged over tokens."""

    def mean(batch: Batch) -> Any:
        each = loss(batch["logps"], batch["behaviour_logps"], batch["advantages"], batch["mask"], **settings)
        return (Weighted.tokens(each, batch["mask"]) if each.ndim == 2 else Weighted.of(each)).mean()

    return mean


def plus(first: Callable[[Batch], Any], second: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    return lambda batch: first(batch) + second(batch)


def kl(estimate: Callable[..., Any], by: Any = Weighted.tokens, coef: float = 1.0) -> Callable[[Batch], Any]:
    def mean(batch: Batch) -> Any:
        names = ["logps", "reference_logps"]
        if estimate is losses.kl_penalty:
            names.insert(1, "behaviour_logps")
        return coef * by(estimate(*(batch[name] for name in names)), batch["mask"]).mean()

    return mean


def weighed(weights: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """GRPO's tokens times what corrects for the sampler."""

    def mean(batch: Batch) -> Any:
        advantages = jnp.broadcast_to(batch["advantages"][:, None], batch["logps"].shape)
        each = losses.ppo_clip_loss(batch["logps"], batch["behaviour_logps"], advantages)
        return Weighted.sequences(weights(batch) * each, batch["mask"]).mean()

    return mean


def truncated(batch: Batch) -> Any:
    return losses.truncated_importance_weights(
        batch["behaviour_logps"], batch["sampler_logps"], max_weight=2.0
    )


def icepop(batch: Batch) -> Any:
    bounds = {"min_weight": 0.5, "max_weight": 5.0}
    return losses.masked_importance_weights(batch["behaviour_logps"], batch["sampler_logps"], **bounds)


def deepseek_mask(batch: Batch) -> Any:
    columns = (batch[name] for name in ("logps", "sampler_logps", "advantages", "mask"))
    return losses.off_policy_sequence_mask(*columns, threshold=0.1)[:, None]


def undecided(batch: Batch) -> Any:
    threshold = losses.entropy_threshold(batch["entropies"], batch["mask"], fraction=0.31)
    return losses.high_entropy_mask(batch["entropies"], batch["mask"], threshold)


def entropy_term(batch: Batch) -> Any:
    return Weighted.tokens(losses.entropy_bonus(batch["entropies"], coef=0.01), batch["mask"]).mean()


def rloo_loss(batch: Batch) -> Any:
    logp, behaviour_logp = ((batch[name] * batch["mask"]).sum(-1) for name in ("logps", "behaviour_logps"))
    return losses.ppo_clip_loss(logp, behaviour_logp, batch["advantages"]).mean()


def reinforce(batch: Batch) -> Any:
    advantages = jnp.broadcast_to(batch["advantages"][:, None], batch["logps"].shape)
    return Weighted.tokens(losses.reinforce_loss(batch["logps"], advantages), batch["mask"]).mean()


def from_logits(loss: Callable[[Batch, Any], Any]) -> Callable[[Batch], Any]:
    """A loss on the log-probabilities of tokens under logits, averaged over tokens."""

    def mean(batch: Batch) -> Any:
        logps = jax.nn.log_softmax(batch["logits"])
        logps = jnp.take_along_axis(logps, batch["tokens"][..., None], axis=-1)[..., 0]
        return Weighted.tokens(loss(batch, logps), batch["mask"]).mean()

    return mean


def _reinforce_of(batch: Batch, logps: Any) -> Any:
    return losses.reinforce_loss(logps, jnp.broadcast_to(batch["advantages"][:, None], logps.shape))


def kl_cov(batch: Batch) -> Any:
    advantages = jnp.broadcast_to(batch["advantages"][:, None], batch["logps"].shape)
    covariances = losses.token_covariances(batch["logps"], advantages, batch["mask"])
    threshold = losses.covariance_threshold(covariances, batch["mask"], fraction=0.2)
    selected = (covariances >= threshold) & (batch["mask"] > 0)
    each = losses.kl_cov_loss(batch["logps"], batch["behaviour_logps"], advantages, selected)
    return Weighted.tokens(each, batch["mask"]).mean()


def clip_cov(batch: Batch) -> Any:
    """All tokens in the window, since verl draws from them."""
    logps, behaviour, mask = (batch[name] for name in ("logps", "behaviour_logps", "mask"))
    advantages = jnp.broadcast_to(batch["advantages"][:, None], logps.shape)
    ratio = jnp.exp(logps - behaviour)
    clipped = -advantages * jnp.clip(ratio, 0.8, 1.2) > -advantages * ratio
    covariances = losses.token_covariances(logps, advantages, mask)
    key = jax.random.key(0)
    selected = losses.clip_cov_selection(key, covariances, mask * ~clipped, fraction=1.0, low=0.1, high=1.0)
    return Weighted.tokens(losses.clip_cov_loss(logps, behaviour, advantages, selected), mask).mean()


def value(epsilon: float = jnp.inf, factor: float = 1.0) -> Callable[[Batch], Any]:
    def mean(batch: Batch) -> Any:
        each = losses.value_loss(batch["values"], batch["old_values"], batch["returns"], epsilon=epsilon)
        return factor * Weighted.tokens(each, batch["mask"]).mean()

    return mean


def over_tokens(function: Callable[..., Any], *names: str) -> Callable[[Batch], Any]:
    return lambda batch: Weighted.tokens(function(*(batch[name] for name in names)), batch["mask"]).mean()


def groups(estimate: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """Advantages of groups of samples, flat as libraries have them."""

    def each(batch: Batch) -> Any:
        return estimate(batch["group_rewards"].reshape(-1, GROUP), **settings).reshape(-1)

    return each


def batch_scaled(scores: Any, ddof: int = 1) -> Any:
    return returns.batch_scaled_advantages(scores, returns.reward_standard_deviation(scores, ddof=ddof))


def opo(batch: Batch) -> Any:
    scores, lengths = (x.reshape(-1, GROUP) for x in (batch["group_rewards"], batch["mask"].sum(-1)))
    return returns.opo_advantages(scores, lengths).reshape(-1)


def remax(batch: Batch) -> Any:
    return returns.remax_advantages(
        batch["group_rewards"].reshape(-1, GROUP), batch["greedy_rewards"]
    ).reshape(-1)


def gpg(scores: Any) -> Any:
    return returns.gpg_advantages(scores, returns.gpg_scale(scores))


def gae_returns(batch: Batch) -> Any:
    """Advantages plus values, within the mask."""
    mask = batch["mask"]
    last = jnp.roll(mask, -1, axis=-1).at[:, -1].set(0)
    values = jnp.pad(batch["values"], ((0, 0), (0, 1)))
    found = returns.generalized_advantage_estimation(batch["token_rewards"], values, 0.9 * last, lambda_=0.8)
    return (found + batch["values"]) * mask


def discounted(batch: Batch) -> Any:
    last = jnp.roll(batch["mask"], -1, axis=-1).at[:, -1].set(0)
    return returns.discounted_returns(batch["token_rewards"], 0.9 * last, jnp.zeros_like(batch["scores"]))


def shaped(batch: Batch) -> Any:
    columns = (batch[name] for name in ("scores", "logps", "reference_logps", "mask"))
    return rewards.kl_shaped_rewards(*columns, beta=0.05)


def kl_controller(batch: Batch) -> Any:
    def after(kl: Any) -> Any:
        return losses.adapted_kl_coef(0.2, kl, target=0.5, horizon=100, num_samples=8)

    return jax.vmap(after)(batch["kl_logratio"])


def gdpo(batch: Batch) -> Any:
    both = jnp.stack([batch["group_rewards"], batch["scores"]], axis=-1).reshape(-1, GROUP, 2)
    scores = returns.gdpo_scores(both, jnp.array([1.0, 0.5]))
    return returns.gdpo_advantages(scores, returns.reward_standard_deviation(scores)).reshape(-1)


def soft_values(batch: Batch) -> Any:
    return returns.soft_values(batch["group_rewards"].reshape(-1, GROUP), beta=0.5)


def whitened(batch: Batch) -> Any:
    return returns.whitened(batch["token_advantages"], batch["mask"])


def reinforce_plus_plus(batch: Batch) -> Any:
    last = jnp.roll(batch["mask"], -1, axis=-1).at[:, -1].set(0)
    return returns.reinforce_plus_plus_advantages(batch["token_rewards"], 0.9 * last, batch["mask"])


def reinforce_plus_plus_baseline(batch: Batch) -> Any:
    mask = batch["mask"].reshape(-1, GROUP, batch["mask"].shape[-1])
    scores = batch["group_rewards"].reshape(-1, GROUP)
    return returns.reinforce_plus_plus_baseline_advantages(scores, mask).reshape(batch["mask"].shape)


PLAIN = on_tokens(losses.ppo_clip_loss)
DUAL = "dual clip is on, at 3, unless switched off: shown is `clip_ratio_c=1e9`"
NO_DUAL: dict[str, Any] = {"clip_ratio_c": 1e9}
EASYDEL_CLIP = (
    "where A < 0 it takes the maximum of the two surrogates, and so clips a token that has become likelier, and not "
    "the one that has become rarer: PPO's minimum is the other way round. No argument here reproduces it"
)
CISPO_CAP = (
    "the cap is 1 + `epsilon_high`, and there is a floor, 1 - `epsilon_low`: `max_ratio=1.28, min_ratio=0.8`"
)
SEQUENCE = {"epsilon_low": 0.2, "epsilon_high": 0.2}

TOKENS: dict[str, Row] = {
    "GRPO": Row((losses.ppo_clip_loss,), PLAIN, (
        of_trl.tokens("grpo"), of_torch.liger_tokens("grpo"), of_torch.openrlhf_tokens(token_level_loss=False),
        of_torch.verl_tokens("vanilla", **NO_DUAL)._replace(
            note=DUAL, default=of_torch.verl_tokens("vanilla").run
        ),
        of_jax.tunix_tokens(), of_jax.easydel_tokens("grpo")._replace(note=EASYDEL_CLIP),
        of_jax.rlax_clipped(),
    )),
    "PPO, mean over tokens": Row((losses.ppo_clip_loss,), on_tokens(losses.ppo_clip_loss, Weighted.tokens), (
        of_jax.easydel_ppo(value=False), of_torch.openrlhf_tokens(),
        of_torch.verl_tokens("vanilla", average="token-mean", **NO_DUAL)._replace(
            note=DUAL, default=of_torch.verl_tokens("vanilla", average="token-mean").run
        ),
        of_jax.tunix_tokens(average="token-mean"),
    )),
    "clip-higher (0.2, 0.28), tokens: DAPO": Row(
        (losses.ppo_clip_loss,), on_tokens(losses.ppo_clip_loss, Weighted.tokens, epsilon_high=0.28), (
            of_trl.tokens("dapo", epsilon_high=0.28), of_torch.liger_tokens("dapo", epsilon_high=0.28),
            of_torch.openrlhf_tokens(clip_eps_high=0.28),
            of_torch.verl_tokens("vanilla", average="token-mean", clip_ratio_high=0.28, **NO_DUAL),
            of_jax.tunix_tokens(average="token-mean", epsilon_high=0.28),
            of_jax.easydel_tokens("dapo", epsilon_high=0.28)._replace(note=EASYDEL_CLIP),
        ),
    ),
    "BNPO": Row((losses.ppo_clip_loss,), on_tokens(losses.ppo_clip_loss, Weighted.tokens), (
        of_trl.tokens("bnpo"), of_torch.liger_tokens("bnpo"),
        of_jax.easydel_tokens("bnpo")._replace(note=EASYDEL_CLIP),
    )),
    "Dr. GRPO (÷ 16)": Row((losses.ppo_clip_loss,), on_tokens(losses.ppo_clip_loss, window), (
        of_trl.tokens("dr_grpo", length=WINDOW), of_torch.liger_tokens("dr_grpo", max_completion_length=WINDOW),
        of_torch.verl_constant(WINDOW)._replace(
            note="without `loss_scale_factor` it divides by the width of the padded row: shown is 16",
            default=of_torch.verl_constant(None).run,
        ),
        of_jax.easydel_tokens("dr_grpo")._replace(
            note=EASYDEL_CLIP + ". And it divides by the width of the padded row",
        ),
    )),
    "dual clip (c = 1.5)": Row((losses.ppo_clip_loss,), on_tokens(losses.ppo_clip_loss, max_ratio=1.5), (
        of_trl.tokens("grpo", delta=1.5), of_torch.liger_tokens("grpo", delta=1.5),
        of_torch.openrlhf_tokens(dual_clip=1.5, token_level_loss=False),
        of_torch.verl_tokens("vanilla", clip_ratio_c=1.5), of_jax.tunix_tokens(epsilon_c=1.5),
    )),
    "RLOO (sequences)": Row((losses.ppo_clip_loss,), rloo_loss, (of_trl.tokens("rloo", trainer="RLOOTrainer"),)),
    "REINFORCE": Row((losses.reinforce_loss,), reinforce, (of_torch.verl_tokens("gpg", average="token-mean"),)),
    "REINFORCE, from logits": Row(
        (losses.reinforce_loss,), from_logits(_reinforce_of), (of_jax.rlax_policy_gradient(),), ("logits",)
    ),
    "CISPO (cap 1.28)": Row((losses.cispo_loss,), on_tokens(losses.cispo_loss, Weighted.tokens, max_ratio=1.28), (
        of_trl.tokens("cispo", epsilon_high=1.28), of_torch.liger_tokens("cispo", epsilon_high=1.28),
        of_torch.verl_tokens("cispo", average="token-mean", clip_ratio_high=0.28)._replace(
            note=CISPO_CAP, ours=on_tokens(losses.cispo_loss, Weighted.tokens, max_ratio=1.28, min_ratio=0.8)
        ),
        of_jax.easydel_tokens("cispo", epsilon_high=1.28)._replace(
            note="the gradient flows through the capped ratio, so that a token with log π < -1 moves the wrong way; "
            "its default cap is 0.2. No argument here reproduces it",
        ),
    )),
    "GSPO": Row((losses.gspo_loss,), on_sequences(losses.gspo_loss, **SEQUENCE), (
        of_trl.tokens("grpo", level="sequence"), of_torch.liger_tokens("grpo", importance_sampling_level="sequence"),
        of_torch.openrlhf_tokens(policy_loss_type="gspo"),
        of_jax.easydel_tokens("grpo", importance_sampling_level="sequence")._replace(note=EASYDEL_CLIP),
    )),
    "GSPO-token": Row((losses.gspo_token_loss,), on_tokens(losses.gspo_token_loss, **SEQUENCE), (
        of_torch.verl_tokens("gspo"), of_jax.tunix_tokens("gspo-token"),
    )),
    "GMPO": Row((losses.gmpo_loss,), on_sequences(losses.gmpo_loss), (
        of_trl.tokens("gmpo", trainer="GMPOTrainer", epsilon_low=0.4, epsilon_high=0.4),
        of_torch.verl_tokens("geo_mean", clip_ratio_low=0.4, clip_ratio_high=0.4),
    )),
    "LUSPO": Row((losses.luspo_loss,), on_sequences(losses.luspo_loss, **SEQUENCE), (
        of_trl.tokens("luspo", level="sequence"), of_torch.liger_tokens("luspo", importance_sampling_level="sequence"),
    )),
    "SAPO": Row((losses.sapo_loss,), on_tokens(losses.sapo_loss), (
        of_trl.tokens("sapo"), of_torch.liger_tokens("sapo"), of_torch.verl_tokens("sapo"),
    )),
    "VESPO": Row((losses.vespo_loss,), on_sequences(losses.vespo_loss), (
        of_trl.tokens("vespo"), of_torch.liger_tokens("vespo"),
    )),
    "KL-Cov (a fifth)": Row((losses.kl_cov_loss, losses.token_covariances, losses.covariance_threshold), kl_cov, (
        of_torch.verl_covariance("kl_cov", kl_cov_ratio=0.2, ppo_kl_coef=1.0),
    )),
    "Clip-Cov (the whole window)": Row((losses.clip_cov_loss, losses.clip_cov_selection), clip_cov, (
        of_torch.verl_covariance("clip_cov", clip_cov_ratio=1.0, clip_cov_lb=0.1, clip_cov_ub=1.0),
    )),
    "TIS (cap 2)": Row((losses.truncated_importance_weights,), weighed(truncated), (
        of_trl.tokens("grpo", sampler=of_torch.truncated_ratio(2.0)),
        of_torch.liger_tokens("grpo", sampler=of_torch.truncated_ratio(2.0)),
        of_torch.openrlhf_tokens(
            token_level_loss=False, is_correction_level="token", is_correction_mode="clip",
            is_correction_threshold=[0.0, 2.0],
        ),
        of_torch.verl_tokens("vanilla", weights=of_torch.verl_correction("token", 2.0).run, **NO_DUAL),
    )),
    "IcePop (0.5 to 5)": Row((losses.masked_importance_weights,), weighed(icepop), (
        of_torch.openrlhf_tokens(
            token_level_loss=False, is_correction_level="token", is_correction_threshold=[0.5, 5.0]
        ),
        of_torch.verl_tokens("vanilla", weights=of_torch.verl_correction("token", "0.5_5.0").run, **NO_DUAL),
    )),
    "off-policy sequence mask": Row((losses.off_policy_sequence_mask,), weighed(deepseek_mask), (
        of_trl.tokens("grpo", off_policy_threshold=0.1),
    )),
    "high-entropy mask (31 %)": Row((losses.entropy_threshold, losses.high_entropy_mask), weighed(undecided), (
        of_trl.tokens("grpo", entropy_quantile=0.31),
    )),
    "entropy bonus": Row((losses.entropy_bonus,), plus(PLAIN, entropy_term), (
        of_trl.tokens("grpo", entropy_bonus=0.01),
    )),
    "GRPO + KL (k3)": Row((losses.kl_k3,), plus(PLAIN, kl(losses.kl_k3, Weighted.sequences, 0.04)), (
        of_trl.tokens("grpo", beta=0.04), of_torch.liger_tokens("grpo", beta=0.04),
        of_jax.tunix_tokens(beta=0.04)._replace(
            note="its default estimator is k1, of which the gradient's mean is 0: shown is `low_var_kl`",
            default=of_jax.tunix_tokens(beta=0.04, kl_loss_mode="kl").run,
        ),
    )),
    "GRPO + KL, corrected": Row(
        (losses.kl_penalty,), plus(PLAIN, kl(losses.kl_penalty, Weighted.sequences, 0.04)), (
            of_trl.tokens("grpo", beta=0.04, use_bias_correction_kl=True),
            of_torch.liger_tokens("grpo", beta=0.04, use_bias_correction_kl=True),
        ),
    ),
    "KL, k1": Row((losses.kl_k1,), kl(losses.kl_k1), (of_torch.verl_kl("k1"), of_jax.tunix_kl("kl"))),
    "KL, k2": Row((losses.kl_k2,), kl(losses.kl_k2), (of_torch.verl_kl("k2"), of_jax.tunix_kl("mse_kl"))),
    "KL, k3": Row((losses.kl_k3,), kl(losses.kl_k3), (
        of_torch.verl_kl("k3")._replace(
            note="a token's value is cut off at 10, and has no gradient beyond: `jnp.minimum(kl_k3(…), 10)`",
            ours=kl(lambda *logps: jnp.minimum(losses.kl_k3(*logps), 10.0)),
        ),
        of_jax.tunix_kl("low_var_kl"),
    )),
    "KL, exact": Row((losses.kl_exact,), over_tokens(losses.kl_exact, "logits", "reference_logits"), (
        of_torch.torch_kl(), of_jax.rlax_kl(),
    ), ("logits",)),
    "entropy": Row((losses.entropy,), over_tokens(losses.entropy, "logits"), (
        of_torch.torch_entropy(), of_torch.verl_entropy(), of_jax.tunix_entropy(), of_jax.rlax_entropy(),
    ), ("logits",)),
    "SFT, from logits": Row((losses.nll_loss,), from_logits(lambda _, logps: losses.nll_loss(logps)), (
        of_torch.torch_cross_entropy(), of_torch.transformers_causal(),
    ), ("logits",)),
    "SFT": Row((losses.nll_loss,), over_tokens(losses.nll_loss, "logps"), (of_torch.openrlhf_sft(),)),
    "DFT, from logits": Row((losses.dft_loss,), from_logits(lambda _, logps: losses.dft_loss(logps)), (
        of_trl.dft(),
    ), ("logits",)),
    "process reward, one score": Row(
        (losses.process_reward_loss,), over_tokens(losses.process_reward_loss, "values", "labels"),
        (of_torch.torch_binary(),), ("values",),
    ),
    "process reward, two classes": Row(
        (losses.two_class_process_reward_loss,), lambda b: over_tokens(losses.two_class_process_reward_loss, "logits",
        "labels")({**b, "logits": b["logits"][..., :2]}), (of_torch.transformers_tokens(),), ("logits",),
    ),
    "value, clipped (0.2)": Row((losses.value_loss,), value(0.2), (
        of_torch.openrlhf_value(clip_eps=0.2), of_torch.verl_value(clip=0.2), of_jax.tunix_value(clip=0.2),
        of_jax.easydel_ppo(value=True),
    ), ("values",)),
    "value": Row((losses.value_loss,), value(), (of_torch.openrlhf_value(), of_jax.rlax_l2()), ("values",)),
}  # fmt: skip

DDOF_0 = "standard deviations are of n, not of n - 1: `ddof=0`"
ADVANTAGES: dict[str, Row] = {
    "GRPO advantages": Row((returns.grpo_advantages,), groups(returns.grpo_advantages), (
        of_trl.advantages("group"),
        of_torch.verl_advantages("grpo")._replace(
            note="ε is 1e-6, not 1e-4", ours=groups(returns.grpo_advantages, epsilon=1e-6)
        ),
        of_jax.tunix_advantages("")._replace(
            note="ε is 1e-6, not 1e-4", ours=groups(returns.grpo_advantages, epsilon=1e-6)
        ),
        of_jax.easydel_advantages("group")._replace(note=DDOF_0, ours=groups(returns.grpo_advantages, ddof=0)),
    ), ()),
    "Dr. GRPO advantages": Row((returns.dr_grpo_advantages,), groups(returns.dr_grpo_advantages), (
        of_trl.advantages("none"), of_torch.verl_advantages("grpo", norm_adv_by_std_in_grpo=False),
        of_jax.tunix_advantages("drgrpo_"), of_jax.easydel_advantages("none"),
    ), ()),
    "batch-scaled advantages": Row(
        (returns.batch_scaled_advantages, returns.reward_standard_deviation), groups(batch_scaled),
        (of_trl.advantages("batch"), of_jax.easydel_advantages("batch")._replace(
            note=DDOF_0, ours=groups(batch_scaled, ddof=0)
        )), (),
    ),
    "RLOO advantages": Row((returns.rloo_advantages,), groups(returns.rloo_advantages), (
        of_trl.advantages(trainer="RLOOTrainer"), of_torch.verl_advantages("rloo"), of_jax.tunix_advantages("rloo_"),
    ), ()),
    "GDPO advantages": Row((returns.gdpo_scores, returns.gdpo_advantages), gdpo, (
        of_trl.advantages("group", several="normalize_then_sum"),
    ), ()),
    "A*-PO, optimal values": Row((returns.soft_values,), soft_values, (of_trl.optimal_values(beta=0.5),), ()),
    "OPO advantages": Row((returns.opo_advantages,), opo, (of_torch.verl_advantages("opo"),), ()),
    "ReMax advantages": Row((returns.remax_advantages,), remax, (of_torch.verl_advantages("remax"),), ()),
    "GPG advantages": Row((returns.gpg_advantages, returns.gpg_scale), groups(gpg), (
        of_torch.verl_advantages("gpg"),
    ), ()),
    "pass@k advantages": Row((returns.pass_at_k_advantages,), groups(returns.pass_at_k_advantages), (
        of_torch.verl_pass_at_k(scaled=True),
    ), ()),
    "max@k advantages": Row((returns.max_at_k_advantages,), groups(returns.max_at_k_advantages), (
        of_torch.verl_pass_at_k(scaled=False),
    ), ()),
    "REINFORCE++": Row((returns.reinforce_plus_plus_advantages,), reinforce_plus_plus, (
        of_torch.verl_reinforce_plus_plus(gamma=0.9),
    ), ()),
    "REINFORCE++ with a baseline": Row(
        (returns.reinforce_plus_plus_baseline_advantages,), reinforce_plus_plus_baseline,
        (of_torch.verl_advantages("reinforce_plus_plus_baseline", tokens=True),), (),
    ),
    "GAE (γ = 0.9, λ = 0.8), returns": Row((returns.generalized_advantage_estimation,), gae_returns, (
        of_torch.verl_gae(gamma=0.9, lambda_=0.8), of_jax.tunix_gae(gamma=0.9, lambda_=0.8),
        of_jax.rlax_gae(gamma=0.9, lambda_=0.8),
    ), ()),
    "discounted returns (0.9)": Row((returns.discounted_returns,), discounted, (of_jax.rlax_returns(),), ()),
    "rewards less the price of KL": Row((rewards.kl_shaped_rewards,), shaped, (
        of_torch.verl_shaped(beta=0.05),
    ), ()),
    "adapted price of KL": Row((losses.adapted_kl_coef,), kl_controller, (
        of_torch.verl_kl_controller(target=0.5, horizon=100, samples=8),
    ), ()),
    "whitening": Row((returns.whitened,), whitened, (of_torch.verl_whitened(), of_jax.tunix_whitened()), ()),
}  # fmt: skip
