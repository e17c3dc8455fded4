"""prefjax's half of the benchmark of losses: for every case a function of the arrays, and what its gradient is in."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prefjax import losses, returns
from prefjax.types import Weighted

Case = tuple[Callable[[Mapping[str, Any]], Any], tuple[str, ...]]
RATIOS, LOGPS = ("chosen", "rejected"), ("chosen_logp", "rejected_logp")
AVERAGES = ("chosen_average", "rejected_average")


def of(names: tuple[str, ...], loss: Callable[..., Any], **settings: Any) -> Case:
    """The mean of a loss whose arguments are the arrays of those names."""
    return lambda a: loss(*(a[name] for name in names), **settings).mean(), names


def linked(link: Callable[..., Any], **settings: Any) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        return losses.dpo_loss(*(link(a[name], **settings) for name in RATIOS), beta=0.1).mean()

    return mean, RATIOS


def tokens(loss: Callable[..., Any], by: Any = Weighted.sequences, **settings: Any) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        advantages = jnp.broadcast_to(a["advantages"][:, None], a["logps"].shape)
        arguments: tuple[Any, ...] = a["logps"], a["behaviour_logps"], advantages
        if loss is losses.gspo_token_loss:
            arguments += (a["mask"],)
        return by(loss(*arguments, **settings), a["mask"]).mean()

    return mean, ("logps",)


def sequences(loss: Callable[..., Any], **settings: Any) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        each = loss(a["logps"], a["behaviour_logps"], a["advantages"], a["mask"], **settings)
        return (Weighted.tokens(each, a["mask"]) if each.ndim == 2 else Weighted.of(each)).mean()

    return mean, ("logps",)


def averaged(
    names: tuple[str, ...], function: Callable[..., Any], moves: tuple[str, ...], **settings: Any
) -> Case:
    """The mean over tokens."""
    return lambda a: Weighted.tokens(function(*(a[n] for n in names), **settings), a["mask"]).mean(), moves


def plain_mean(
    names: tuple[str, ...], function: Callable[..., Any], moves: tuple[str, ...], **settings: Any
) -> Case:
    """The mean over all places."""
    return lambda a: function(*(a[n] for n in names), **settings).mean(), moves


def advantages(estimate: Callable[..., Any]) -> Case:
    """No gradient: the numbers themselves."""
    return lambda a: estimate(a), ()


def _aot(a: Mapping[str, Any]) -> Any:
    chosen, rejected, chosen_reference, rejected_reference = (
        a[name] for name in (*LOGPS, "chosen_reference", "rejected_reference")
    )
    present = jnp.ones_like(chosen)
    return losses.aot_loss(chosen, rejected, chosen_reference, rejected_reference, present, beta=0.1).mean()


def _aot_unpaired(a: Mapping[str, Any]) -> Any:
    return losses.aot_unpaired_loss(a["chosen"], a["rejected"], jnp.ones_like(a["chosen"]), beta=0.1).mean()


def _centred(a: Mapping[str, Any]) -> Any:
    both = a["chosen"], a["rejected"]
    return (losses.bradley_terry_loss(*both) + 0.01 * losses.centring_term(*both)).mean()


def _kl_penalty(a: Mapping[str, Any]) -> Any:
    each = losses.kl_penalty(a["logps"], a["behaviour_logps"], a["reference_logps"])
    return Weighted.tokens(each, a["mask"]).mean()


def _reinforce(a: Mapping[str, Any]) -> Any:
    return losses.reinforce_loss(a["logps"], jnp.broadcast_to(a["advantages"][:, None], a["logps"].shape))


def _logits_to_logps(a: Mapping[str, Any]) -> Any:
    logits = a["logits"]
    taken = jnp.take_along_axis(logits, a["tokens"][..., None], axis=-1)[..., 0]
    return taken - jax.nn.logsumexp(logits, axis=-1)


def _reinforce_from_logits(a: Mapping[str, Any]) -> Any:
    advantages = jnp.broadcast_to(a["advantages"][:, None], a["tokens"].shape)
    return losses.reinforce_loss(_logits_to_logps(a), advantages).mean()


def _kl_cov(a: Mapping[str, Any]) -> Any:
    spread = jnp.broadcast_to(a["advantages"][:, None], a["logps"].shape)
    covariances = losses.token_covariances(a["logps"], spread, a["mask"])
    threshold = losses.covariance_threshold(covariances, a["mask"], fraction=0.01)
    selected = (covariances >= threshold) & (a["mask"] > 0)
    each = losses.kl_cov_loss(a["logps"], a["behaviour_logps"], spread, selected)
    return Weighted.tokens(each, a["mask"]).mean()


def _truncated(a: Mapping[str, Any]) -> Any:
    return (
        losses.truncated_importance_weights(a["behaviour_logps"], a["sampler_logps"], max_weight=2.0)
        * a["mask"]
    )


def _icepop(a: Mapping[str, Any]) -> Any:
    weights = losses.masked_importance_weights(
        a["behaviour_logps"], a["sampler_logps"], min_weight=0.9, max_weight=1.1
    )
    return weights * a["mask"]


def _sequence_mask(a: Mapping[str, Any]) -> Any:
    columns = (a[name] for name in ("logps", "sampler_logps", "advantages", "mask"))
    return losses.off_policy_sequence_mask(*columns, threshold=0.01)


def _undecided(a: Mapping[str, Any]) -> Any:
    threshold = losses.entropy_threshold(a["entropies"], a["mask"], fraction=0.31)
    return losses.high_entropy_mask(a["entropies"], a["mask"], threshold)


def _wpo(a: Mapping[str, Any]) -> Any:
    return losses.wpo_weights(a["logps"], a["log_sum_squares"], a["mask"])


def _ld_dpo(a: Mapping[str, Any]) -> Any:
    other = jnp.roll(a["mask"].sum(-1), len(a["mask"]) // 2)
    return losses.ld_dpo_logp(a["logps"], a["mask"], other, alpha=0.3).mean()


def _gdpo(a: Mapping[str, Any]) -> Any:
    scores = returns.gdpo_scores(
        jnp.stack([a["rewards"], a["other_rewards"]], axis=-1), jnp.array([1.0, 0.5])
    )
    return returns.gdpo_advantages(scores, returns.reward_standard_deviation(scores))


def _batch_scaled(a: Mapping[str, Any]) -> Any:
    return returns.batch_scaled_advantages(a["rewards"], returns.reward_standard_deviation(a["rewards"]))


def _gae(a: Mapping[str, Any]) -> Any:
    values = jnp.pad(a["values"], ((0, 0), (0, 1)))
    return returns.generalized_advantage_estimation(a["token_rewards"], values, 0.9 * a["mask"], lambda_=0.8)


def _discounted(a: Mapping[str, Any]) -> Any:
    return returns.discounted_returns(a["token_rewards"], 0.9 * a["mask"], jnp.zeros_like(a["advantages"]))


def _lists(loss: Callable[..., Any], *names: str) -> Case:
    return lambda a: loss(*(a[name] for name in names), jnp.ones_like(a["items"])).mean(), ("items",)


SMOOTH = {"beta": 0.1, "label_smoothing": 0.1}
SEQUENCE = {"epsilon_low": 0.2, "epsilon_high": 0.2}
OURS: dict[str, Case] = {
    "dpo_loss": of(RATIOS, losses.dpo_loss, beta=0.1),
    "dpo_loss, smoothed": of(RATIOS, losses.dpo_loss, **SMOOTH),
    "ipo_loss": of(RATIOS, losses.ipo_loss, beta=0.1),
    "hinge_loss": of(RATIOS, losses.hinge_loss, beta=0.1),
    "robust_dpo_loss": of(RATIOS, losses.robust_dpo_loss, **SMOOTH),
    "exo_pair_loss": of(RATIOS, losses.exo_pair_loss, **SMOOTH),
    "nca_pair_loss": of(RATIOS, losses.nca_pair_loss, beta=0.1),
    "bco_pair_loss": of(RATIOS, losses.bco_pair_loss, beta=0.1),
    "sppo_hard_loss": of(RATIOS, losses.sppo_hard_loss, beta=0.1),
    "aot_loss": (_aot, LOGPS),
    "aot_unpaired_loss": (_aot_unpaired, RATIOS),
    "apo_zero_loss": of(RATIOS, losses.apo_zero_loss, beta=0.1),
    "apo_down_loss": of(RATIOS, losses.apo_down_loss, beta=0.1),
    "discopop_loss": of(RATIOS, losses.discopop_loss, beta=0.1),
    "forward_kl_link": linked(losses.forward_kl_link),
    "jensen_shannon_link": linked(losses.jensen_shannon_link),
    "alpha_link": linked(losses.alpha_link, alpha=0.5),
    "cpo_loss": of(LOGPS, losses.cpo_loss, **SMOOTH),
    "simpo_loss": of(AVERAGES, losses.simpo_loss, beta=2.0, gamma=0.5, label_smoothing=0.1),
    "alphapo_loss": of(AVERAGES, losses.alphapo_loss, beta=2.0, gamma=0.5, alpha=0.25, label_smoothing=0.1),
    "odds_ratio_loss": of(AVERAGES, losses.odds_ratio_loss),
    "kto_loss": plain_mean(("chosen", "desirable"), losses.kto_loss, ("chosen",), beta=0.1, kl=0.3),
    "apo_zero_unpaired_loss": plain_mean(
        ("chosen", "desirable"), losses.apo_zero_unpaired_loss, ("chosen",), beta=0.1
    ),
    "bco_loss": plain_mean(("chosen", "desirable"), losses.bco_loss, ("chosen",), beta=0.1, shift=0.3),
    "bradley_terry_loss": of(RATIOS, losses.bradley_terry_loss),
    "bradley_terry_loss, margin": (
        lambda a: losses.bradley_terry_loss(a["chosen"], a["rejected"], margin=a["margin"]).mean(), RATIOS,
    ),
    "centring_term": (_centred, RATIOS),
    "a_star_po_loss": plain_mean(("chosen", "rejected", "margin"), losses.a_star_po_loss, ("chosen",), beta=0.1),
    "best_versus_rest_loss": _lists(losses.best_versus_rest_loss, "items"),
    "listnet_loss": _lists(losses.listnet_loss, "items", "other_items"),
    "preference_degree_loss": plain_mean(("items", "grade"), losses.preference_degree_loss, ("items",)),
    "reinforce_loss": (lambda a: Weighted.tokens(_reinforce(a), a["mask"]).mean(), ("logps",)),
    "reinforce_loss, from logits": (_reinforce_from_logits, ("logits",)),
    "ppo_clip_loss": (
        lambda a: losses.ppo_clip_loss(
            a["logps"], a["behaviour_logps"], jnp.broadcast_to(a["advantages"][:, None], a["logps"].shape)
        ).mean(), ("logps",),
    ),
    "ppo_clip_loss, GRPO": tokens(losses.ppo_clip_loss),
    "ppo_clip_loss, dual clip": tokens(losses.ppo_clip_loss, max_ratio=1.5),
    "cispo_loss": tokens(losses.cispo_loss, Weighted.tokens, max_ratio=1.28),
    "sapo_loss": tokens(losses.sapo_loss),
    "gspo_loss": sequences(losses.gspo_loss, **SEQUENCE),
    "gspo_token_loss": tokens(losses.gspo_token_loss, **SEQUENCE),
    "gmpo_loss": sequences(losses.gmpo_loss),
    "luspo_loss": sequences(losses.luspo_loss, **SEQUENCE),
    "vespo_loss": sequences(losses.vespo_loss),
    "kl_cov_loss": (_kl_cov, ("logps",)),
    "truncated_importance_weights": (_truncated, ()),
    "masked_importance_weights": (_icepop, ()),
    "off_policy_sequence_mask": (_sequence_mask, ()),
    "high_entropy_mask": (_undecided, ()),
    "wpo_weights": (_wpo, ()),
    "ld_dpo_logp": (_ld_dpo, ("logps",)),
    "kl_k1": averaged(("logps", "reference_logps"), losses.kl_k1, ("logps",)),
    "kl_k2": averaged(("logps", "reference_logps"), losses.kl_k2, ("logps",)),
    "kl_k3": averaged(("logps", "reference_logps"), losses.kl_k3, ("logps",)),
    "kl_penalty": (_kl_penalty, ("logps",)),
    "kl_exact": plain_mean(("logits", "reference_logits"), losses.kl_exact, ("logits",)),
    "entropy": plain_mean(("logits",), losses.entropy, ("logits",)),
    "nll_loss": averaged(("logps",), losses.nll_loss, ("logps",)),
    "dft_loss": averaged(("logps",), losses.dft_loss, ("logps",)),
    "process_reward_loss": plain_mean(("values", "labels"), losses.process_reward_loss, ("values",)),
    "value_loss": plain_mean(("values", "old_values", "returns"), losses.value_loss, ("values",)),
    "value_loss, clipped": averaged(
        ("values", "old_values", "returns"), losses.value_loss, ("values",), epsilon=0.2
    ),
    "rating_loss": plain_mean(("values", "returns", "mask"), losses.rating_loss, ("values",)),
    "grpo_advantages": advantages(lambda a: returns.grpo_advantages(a["rewards"])),
    "dr_grpo_advantages": advantages(lambda a: returns.dr_grpo_advantages(a["rewards"])),
    "batch_scaled_advantages": advantages(_batch_scaled),
    "rloo_advantages": advantages(lambda a: returns.rloo_advantages(a["rewards"])),
    "gdpo_advantages": advantages(_gdpo),
    "generalized_advantage_estimation": advantages(_gae),
    "discounted_returns": advantages(_discounted),
    "whitened": advantages(lambda a: returns.whitened(a["values"], a["mask"])),
}  # fmt: skip
