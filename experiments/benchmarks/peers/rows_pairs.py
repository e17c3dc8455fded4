"""Rows of the agreement table: losses on pairs, on single completions, and on scores."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers import of_jax, of_torch, of_trl
from experiments.benchmarks.peers.measuring import Batch, Row
from prefjax import losses
from prefjax.types import Weighted

BETA = 0.1


def sums(batch: Batch, name: str = "logps") -> Any:
    return (batch[name] * batch["mask"]).sum(-1)


def lengths(batch: Batch) -> Any:
    return batch["mask"].sum(-1)


def ratios(batch: Batch) -> tuple[Any, Any]:
    return halves(sums(batch) - sums(batch, "reference_logps"))


def halves(array: Any) -> tuple[Any, Any]:
    chosen, rejected = jnp.split(array, 2)
    return chosen, rejected


def pair(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """The mean over pairs of a loss on two log-ratios."""
    return lambda batch: loss(*ratios(batch), **settings).mean()


def pair_average(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """Each log-ratio is divided by the number of its own tokens first."""

    def mean(batch: Batch) -> Any:
        averages = (sums(batch) - sums(batch, "reference_logps")) / lengths(batch)
        return loss(*halves(averages), **settings).mean()

    return mean


def free(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """On two sums of log-probabilities, without a reference."""
    return lambda batch: loss(*halves(sums(batch)), **settings).mean()


def free_average(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    return lambda batch: loss(*halves(sums(batch) / lengths(batch)), **settings).mean()


def linked(link: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    def mean(batch: Batch) -> Any:
        return losses.dpo_loss(*(link(ratio, **settings) for ratio in ratios(batch)), beta=BETA).mean()

    return mean


def aot(batch: Batch) -> Any:
    logps, references = halves(sums(batch)), halves(sums(batch, "reference_logps"))
    return losses.aot_loss(*logps, *references, jnp.ones_like(logps[0]), beta=BETA).mean()


def aot_unpaired(batch: Batch) -> Any:
    both = ratios(batch)
    return losses.aot_unpaired_loss(*both, jnp.ones_like(both[0]), beta=BETA, label_smoothing=0.1).mean()


def bco_pair_shifted(batch: Batch) -> Any:
    both = ratios(batch)
    return losses.bco_pair_loss(*both, beta=BETA, shift=BETA * jnp.concatenate(both).mean()).mean()


def wpo(batch: Batch) -> Any:
    # log Σ π², which TRL takes from the logits and a fused kernel.
    squares = jnp.log((jnp.exp(batch["logits"] - _logsumexp(batch["logits"])) ** 2).sum(-1))
    weights = losses.wpo_weights(batch["logps"], squares, batch["mask"])
    chosen, rejected = halves(weights)
    return (chosen * rejected * losses.dpo_loss(*ratios(batch), beta=BETA)).mean()


def _logsumexp(logits: Any) -> Any:
    most = logits.max(-1, keepdims=True)
    return most + jnp.log(jnp.exp(logits - most).sum(-1, keepdims=True))


def ld_dpo(batch: Batch) -> Any:
    other = jnp.roll(lengths(batch), len(batch["mask"]) // 2)

    def logp(name: str) -> Any:
        return losses.ld_dpo_logp(batch[name], batch["mask"], other, alpha=0.3)

    return losses.dpo_loss(*halves(logp("logps") - logp("reference_logps")), beta=BETA).mean()


def single(loss: Callable[..., Any], **settings: Any) -> Callable[[Batch], Any]:
    """The mean over completions of a loss on a log-ratio and whether it was liked."""

    def mean(batch: Batch) -> Any:
        return loss(sums(batch) - sums(batch, "reference_logps"), batch["desirable"], **settings).mean()

    return mean


def kto(batch: Batch, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> Any:
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return single(losses.kto_loss, beta=BETA, kl=losses.kto_kl(batch["kl_logratio"]).mean(), **weights)(batch)


def orpo(average: bool) -> Callable[[Batch], Any]:
    """With β = 0.1. `average=False`: the odds of whole completions, which underflow to their likelihood."""

    def mean(batch: Batch) -> Any:
        odds = losses.odds_ratio_loss(*halves(sums(batch) / (lengths(batch) if average else 1)))
        chosen, _ = halves(sums(batch) / lengths(batch))
        return (0.1 * odds - chosen).mean()

    return mean


def tokens_of_chosen(batch: Batch) -> Any:
    chosen, mask = halves(batch["logps"])[0], halves(batch["mask"])[0]
    return Weighted.tokens(losses.nll_loss(chosen), mask).mean()


def bradley_terry(margin: bool = False, centring: float = 0.0) -> Callable[[Batch], Any]:
    def mean(batch: Batch) -> Any:
        both = halves(batch["scores"])
        loss = losses.bradley_terry_loss(*both, margin=batch["margin"] if margin else 0.0)
        return (loss + centring * losses.centring_term(*both)).mean()

    return mean


def xpo(batch: Batch) -> Any:
    own, other = ratios(batch)
    wins = batch["wins"] > 0
    both = jnp.where(wins, own, other), jnp.where(wins, other, own)
    return losses.xpo_loss(*both, halves(sums(batch))[1], beta=BETA, alpha=0.01).mean()


def nash_md(batch: Batch) -> Any:
    logp, reference = halves(sums(batch))[0], halves(sums(batch, "reference_logps"))[0]
    return losses.nash_md_loss(logp, reference, batch["preference"], beta=BETA).mean()


def rpo(per_token: bool) -> Callable[[Batch], Any]:
    def mean(batch: Batch) -> Any:
        if per_token:
            return pair(losses.dpo_loss, beta=BETA)(batch) + tokens_of_chosen(batch)
        chosen, _ = halves(sums(batch) / lengths(batch))
        return losses.iterated_dpo_loss(*ratios(batch), chosen, beta=BETA).mean()

    return mean


def best_of_list(batch: Batch) -> Any:
    return losses.best_versus_rest_loss(batch["items"], jnp.ones_like(batch["items"])).mean()


def list_net(batch: Batch) -> Any:
    return losses.listnet_loss(batch["items"], batch["other_items"], jnp.ones_like(batch["items"])).mean()


def degree(batch: Batch) -> Any:
    return losses.preference_degree_loss(batch["items"], batch["tokens"][:, 0]).mean()


def rating(batch: Batch) -> Any:
    return losses.rating_loss(batch["values"], batch["returns"], batch["mask"]).sum() / batch["mask"].sum()


def a_star_po(batch: Batch) -> Any:
    ratio = sums(batch) - sums(batch, "reference_logps")
    return losses.a_star_po_loss(ratio, batch["group_rewards"], batch["scores"], beta=BETA).mean()


def tpo(per_token: bool) -> Callable[[Batch], Any]:
    """On two triples. `per_token`: the mean over all tokens of the targets, and not over their number."""

    def mean(batch: Batch) -> Any:
        logps = jnp.take_along_axis(jax.nn.log_softmax(batch["logits"]), batch["tokens"][..., None], axis=-1)[
            ..., 0
        ]
        mask, logps = batch["mask"][:6], logps[:6]
        chosen, rejected, target = jnp.split((logps * mask).sum(-1), 3)
        if not per_token:
            return losses.tpo_loss(chosen, rejected, target, beta=BETA, alpha=0.5).mean()
        nll = Weighted.tokens(losses.nll_loss(logps[4:]), mask[4:]).mean()
        return losses.cpo_loss(chosen, rejected, beta=BETA).mean() + 0.5 * nll

    return mean


SMOOTH = 0.1
IGNORED = (
    "`label_smoothing` of the plain sigmoid loss is ignored, without a word: shown is `label_smoothing=0`"
)
dpo, smooth = pair(losses.dpo_loss, beta=BETA), pair(losses.dpo_loss, beta=BETA, label_smoothing=SMOOTH)

PAIRS: dict[str, Row] = {
    "DPO": Row((losses.dpo_loss, losses.reverse_kl_link), dpo, (
        of_trl.dpo("sigmoid"), of_torch.liger_dpo("sigmoid"), of_torch.openrlhf_dpo(), of_jax.tunix_dpo(beta=BETA),
        of_jax.easydel_dpo("sigmoid"),
    )),
    "cDPO (ε = 0.1)": Row((losses.dpo_loss,), smooth, (
        of_trl.dpo("sigmoid", label_smoothing=SMOOTH)._replace(note=IGNORED, ours=dpo),
        of_torch.liger_dpo("sigmoid", label_smoothing=SMOOTH)._replace(note=IGNORED, ours=dpo),
        of_torch.openrlhf_dpo(label_smoothing=SMOOTH), of_jax.tunix_dpo(beta=BETA, label_smoothing=SMOOTH),
        of_jax.easydel_dpo("sigmoid", label_smoothing=SMOOTH),
    )),
    "DPO, length-averaged": Row((losses.dpo_loss,), pair_average(losses.dpo_loss, beta=BETA), (
        of_trl.dpo("sigmoid_norm"),
    )),
    "DPO + likelihood of the chosen (RPO)": Row((losses.iterated_dpo_loss,), rpo(per_token=False), (
        of_trl.dpo("sigmoid", "sft")._replace(
            note="the likelihood is a mean over all tokens of the chosen, not over completions: "
            "`dpo_loss` and `Weighted.tokens(nll_loss(…))`",
            ours=rpo(per_token=True),
        ),
    )),
    "IPO (sums)": Row((losses.ipo_loss,), pair(losses.ipo_loss, beta=BETA), (
        of_trl.dpo("ipo")._replace(
            note="each log-ratio is divided by the length of its completion, as the authors' experiments do",
            ours=pair_average(losses.ipo_loss, beta=BETA),
        ),
        of_torch.openrlhf_dpo(ipo=True), of_jax.easydel_dpo("ipo")._replace(
            note="this function sums; its trainer hands it averages, and then it is TRL's",
        ),
    )),
    "hinge": Row((losses.hinge_loss,), pair(losses.hinge_loss, beta=BETA), (
        of_trl.dpo("hinge"), of_torch.liger_dpo("hinge"), of_jax.easydel_dpo("hinge"),
    )),
    "robust DPO (ε = 0.1)": Row(
        (losses.robust_dpo_loss,), pair(losses.robust_dpo_loss, beta=BETA, label_smoothing=SMOOTH), (
            of_trl.dpo("robust", label_smoothing=SMOOTH), of_torch.liger_dpo("robust", label_smoothing=SMOOTH),
            of_jax.easydel_dpo("robust", label_smoothing=SMOOTH),
        ),
    ),
    "EXO on pairs (ε = 0.1)": Row(
        (losses.exo_pair_loss,), pair(losses.exo_pair_loss, beta=BETA, label_smoothing=SMOOTH), (
            of_trl.dpo("exo_pair", label_smoothing=SMOOTH), of_torch.liger_dpo("exo_pair", label_smoothing=SMOOTH),
            of_jax.easydel_dpo("exo_pair", label_smoothing=SMOOTH)._replace(
                note="it cannot be run under `jit` (it takes `math.log` of a traced number): run without"
            ),
        ),
    ),
    "NCA on pairs": Row((losses.nca_pair_loss,), pair(losses.nca_pair_loss, beta=BETA), (
        of_trl.dpo("nca_pair"), of_torch.liger_dpo("nca_pair"), of_jax.easydel_dpo("nca_pair"),
    )),
    "BCO on pairs": Row((losses.bco_pair_loss,), pair(losses.bco_pair_loss, beta=BETA), (
        of_trl.dpo("bco_pair"), of_torch.liger_dpo("bco_pair"), of_jax.easydel_dpo("bco_pair")._replace(
            note="rewards are shifted by their mean over the batch, and the gradient flows through that mean: `shift` "
            "gives the value, and a gradient that is almost theirs",
            ours=bco_pair_shifted,
        ),
    )),
    "SPPO-hard": Row((losses.sppo_hard_loss,), pair(losses.sppo_hard_loss, beta=BETA), (
        of_trl.dpo("sppo_hard"), of_torch.liger_dpo("sppo_hard"), of_jax.easydel_dpo("sppo_hard"),
    )),
    "AOT, paired": Row((losses.aot_loss,), aot, (of_trl.dpo("aot"), of_jax.easydel_dpo("aot"))),
    "AOT, unpaired (ε = 0.1)": Row((losses.aot_unpaired_loss,), aot_unpaired, (
        of_trl.dpo("aot_unpaired", label_smoothing=SMOOTH),
        of_jax.easydel_dpo("aot_pair", label_smoothing=SMOOTH)._replace(note="it goes by the name of `aot_pair`"),
    )),
    "APO-zero": Row((losses.apo_zero_loss,), pair(losses.apo_zero_loss, beta=BETA), (
        of_trl.dpo("apo_zero"), of_torch.liger_dpo("apo_zero"), of_jax.easydel_dpo("apo_zero"),
    )),
    "APO-down": Row((losses.apo_down_loss,), pair(losses.apo_down_loss, beta=BETA), (
        of_trl.dpo("apo_down"), of_torch.liger_dpo("apo_down"), of_jax.easydel_dpo("apo_down"),
    )),
    "DiscoPOP": Row((losses.discopop_loss,), pair(losses.discopop_loss, beta=BETA), (
        of_trl.dpo("discopop"), of_torch.liger_dpo("discopop"),
        of_jax.easydel_dpo("discopop", discopop_tau=0.05)._replace(
            note="its temperature is 1 unless given, and its trainer has no setting for it: shown is 0.05",
            default=of_jax.easydel_dpo("discopop").run,
        ),
    )),
    '"kto" on pairs': Row((losses.dpo_loss,), smooth, (
        of_jax.easydel_dpo("kto", label_smoothing=SMOOTH)._replace(
            note="bit by bit its own sigmoid loss, which is cDPO and not KTO"
        ),
    )),
    "DPO, forward KL": Row((losses.forward_kl_link,), linked(losses.forward_kl_link), (
        of_trl.dpo("sigmoid", f_divergence_type="forward_kl"),
    )),
    "DPO, Jensen-Shannon": Row((losses.jensen_shannon_link,), linked(losses.jensen_shannon_link), (
        of_trl.dpo("sigmoid", f_divergence_type="js_divergence"),
    )),
    "DPO, α-divergence (1/2)": Row((losses.alpha_link,), linked(losses.alpha_link, alpha=0.5), (
        of_trl.dpo("sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.5, single=True),
    )),
    "WPO weights": Row((losses.wpo_weights,), wpo, (of_trl.dpo("sigmoid", use_weighting=True),)),
    "LD-DPO (α = 0.3)": Row((losses.ld_dpo_logp,), ld_dpo, (of_trl.dpo("sigmoid", ld_alpha=0.3),)),
    "XPO": Row((losses.xpo_loss, losses.xpo_term), xpo, (of_jax.easydel_xpo(),)),
    "Nash-MD": Row((losses.nash_md_loss,), nash_md, (
        of_jax.easydel_nash_md()._replace(
            note="log-ratio and log-probability are multiplied token by token, not as sums, and the gradient flows "
            "through both; no argument here reproduces it",
        ),
    )),
    "CPO": Row((losses.cpo_loss,), free(losses.cpo_loss, beta=BETA, label_smoothing=SMOOTH), (
        of_trl.cpo("sigmoid", label_smoothing=SMOOTH),
        of_torch.liger_pair("cpo_loss", "LigerFusedLinearCPOFunction", beta=BETA, label_smoothing=SMOOTH),
        of_jax.easydel_cpo("sigmoid", label_smoothing=SMOOTH),
    )),
    "SLiC (hinge, no reference)": Row((losses.hinge_loss,), free(losses.hinge_loss, beta=BETA), (
        of_trl.cpo("hinge"), of_jax.easydel_cpo("hinge"),
    )),
    "SimPO": Row((losses.simpo_loss,), free_average(losses.simpo_loss, beta=2.0, gamma=0.5), (
        of_trl.cpo("simpo", beta=2.0, average=True),
        of_torch.liger_pair("simpo_loss", "LigerFusedLinearSimPOFunction", average=True, beta=2.0, gamma=0.5),
        of_jax.easydel_cpo("simpo", beta=2.0, average=True),
    )),
    "AlphaPO (α = 0.25)": Row(
        (losses.alphapo_loss,), free_average(losses.alphapo_loss, beta=2.0, gamma=0.5, alpha=0.25), (
            of_trl.cpo("simpo", beta=2.0, alpha=0.25, average=True),
            of_jax.easydel_cpo("simpo", beta=2.0, alpha=0.25, average=True),
        ),
    ),
    "ORPO, odds ratio": Row((losses.odds_ratio_loss,), lambda b: 0.1 * free_average(losses.odds_ratio_loss)(b), (
        of_trl.odds_ratio(),
        of_torch.liger_pair("orpo_loss", "LigerFusedLinearORPOFunction", average=True, beta=0.1),
        of_jax.easydel_odds_ratio(),
    )),
    "ORPO": Row((losses.orpo_loss,), orpo(average=True), (
        of_jax.tunix_dpo("orpo", lambda_orpo=0.1)._replace(
            note="the odds are those of sums over tokens, not of averages: `odds_ratio_loss` of sums", ours=orpo(False)
        ),
    )),
    "KTO": Row((losses.kto_loss, losses.kto_kl), kto, (
        of_trl.kto("kto"), of_torch.liger_kto(), of_jax.easydel_kto("kto"),
    )),
    "KTO, weighted": Row(
        (losses.kto_loss,), functools.partial(kto, desirable_weight=1.3, undesirable_weight=0.7), (
            of_trl.kto("kto", desirable_weight=1.3, undesirable_weight=0.7),
            of_jax.easydel_kto("kto", desirable_weight=1.3, undesirable_weight=0.7),
        ),
    ),
    "APO-zero, unpaired": Row((losses.apo_zero_unpaired_loss,), single(losses.apo_zero_unpaired_loss, beta=BETA), (
        of_trl.kto("apo_zero_unpaired"), of_jax.easydel_kto("apo_zero_unpaired"),
    )),
    "BCO": Row((losses.bco_loss,), single(losses.bco_loss, beta=BETA, shift=0.3), (of_jax.easydel_bco(shift=0.3),)),
    "A*-PO": Row((losses.a_star_po_loss,), a_star_po, (of_trl.a_star_po(beta=BETA),)),
    "TPO (α = 0.5)": Row((losses.tpo_loss,), tpo(per_token=False), (
        of_trl.tpo(beta=BETA, alpha=0.5)._replace(
            note="the likelihood of the targets is a mean over their tokens, not over triples: "
            "`cpo_loss` and 0.5 `Weighted.tokens(nll_loss(…))`",
            ours=tpo(per_token=True),
        ),
    ), ("logits",)),
    "best versus rest": Row((losses.best_versus_rest_loss,), best_of_list, (
        of_torch.torch_list(soft=False),
    ), ("items",)),
    "ListNet": Row((losses.listnet_loss,), list_net, (of_torch.torch_list(soft=True),), ("items",)),
    "preference degree": Row((losses.preference_degree_loss,), degree, (of_torch.torch_degree(),), ("items",)),
    "ratings": Row((losses.rating_loss,), rating, (of_torch.torch_squares(),), ("values",)),
    "SFT on the chosen": Row((losses.nll_loss,), tokens_of_chosen, (of_trl.dpo("sft"),)),
    "Bradley-Terry": Row((losses.bradley_terry_loss,), bradley_terry(), (
        of_trl.reward(), of_torch.openrlhf_reward(), of_jax.easydel_reward(), of_jax.rlax_log(),
    ), ("scores",)),
    "Bradley-Terry, margin": Row((losses.bradley_terry_loss,), bradley_terry(margin=True), (
        of_trl.reward(margin=True), of_torch.openrlhf_reward(margin=True), of_jax.easydel_reward(margin=True),
    ), ("scores",)),
    "Bradley-Terry, centred": Row((losses.centring_term,), bradley_terry(centring=0.01), (
        of_trl.reward(centring=0.01), of_jax.easydel_reward(centring=0.01),
    ), ("scores",)),
}  # fmt: skip
