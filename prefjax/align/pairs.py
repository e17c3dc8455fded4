"""Losses on preference pairs joined to a policy: DPO and its relatives, under the names that TRL gives them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.rows import completion_lengths, stacked, summed_logps
from prefjax.checks import refuse, require
from prefjax.losses import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    cpo_loss,
    discopop_loss,
    dpo_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    nca_pair_loss,
    odds_ratio_loss,
    robust_dpo_loss,
    simpo_loss,
    sppo_hard_loss,
)
from prefjax.policy import (
    Policy,
    Predictions,
    hidden_states,
    logps_from_logits,
    output_weights,
    predicted_logps,
    predictions,
    sum_at_once,
)
from prefjax.types import Scalar, Weighted

LOGITS = 2**26  # of one pair, 256 MiB: more are not held at a time
FEW = 2**24  # small pairs go together up to this many


class PairedLoss(NamedTuple):
    """A loss on pairs, and what it asks for beside the arguments that it names.

    Attributes:
      loss: takes any of `chosen_logratio`, `chosen_logp`, `chosen_average_logp`, the same of `rejected`, `beta`,
        `label_smoothing`, and settings of its own, by name.
      per_token: log-ratios are divided by their completion's length first.
      likelihood: this times -log π of the chosen completion, the mean over all chosen tokens of the step, is added:
        0 for none. It needs `add_mean_length`.
      reference: whether log-ratios are to a reference; without one the batch needs none, and they are
        log-probabilities.
    """

    loss: Callable[..., Float[Array, "*batch"]]
    per_token: bool = False
    likelihood: float = 0.0
    reference: bool = True


def orpo_pair_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """β times `odds_ratio_loss`: what ORPO adds to the likelihood of the chosen completion."""
    return beta * odds_ratio_loss(chosen_average_logp, rejected_average_logp)


PAIRED_LOSSES: dict[str, PairedLoss] = {
    "sigmoid": PairedLoss(dpo_loss),
    "sigmoid_norm": PairedLoss(dpo_loss, per_token=True),
    "ipo": PairedLoss(ipo_loss, per_token=True),
    "hinge": PairedLoss(hinge_loss),
    "robust": PairedLoss(robust_dpo_loss),
    "exo_pair": PairedLoss(exo_pair_loss),
    "nca_pair": PairedLoss(nca_pair_loss),
    "bco_pair": PairedLoss(bco_pair_loss),
    "apo_zero": PairedLoss(apo_zero_loss),
    "apo_down": PairedLoss(apo_down_loss),
    "sppo_hard": PairedLoss(sppo_hard_loss),
    "discopop": PairedLoss(discopop_loss),
    # TRL's rpo is ["sigmoid", "sft"] with weights 1 and α.
    "rpo": PairedLoss(dpo_loss, likelihood=1.0),
    "cpo": PairedLoss(cpo_loss, likelihood=1.0, reference=False),
    "simpo": PairedLoss(partial(simpo_loss, gamma=0.5), reference=False),
    "orpo": PairedLoss(orpo_pair_loss, likelihood=1.0, reference=False),
}


def add_reference(policy: Policy, *, max_completion: int) -> Callable:
    """`reference_params, batch -> batch` with log π₀ of both completions, as `reference_logp`.

    The reference is an input, not a part of the step: it is never differentiated, and what made it is known.
    Leaves are [M, B, ...], one microbatch after another.
    """

    def add(reference_params: PyTree, batch: dict) -> dict:
        def one(microbatch):
            both = summed_logps(policy, reference_params, stacked(*microbatch), max_completion=max_completion)
            return both.reshape(-1, 2)

        logp = jax.lax.map(one, (batch["chosen"], batch["rejected"]))
        return {
            **batch,
            "chosen": {**batch["chosen"], "reference_logp": logp[..., 0]},
            "rejected": {**batch["rejected"], "reference_logp": logp[..., 1]},
        }

    return add


def add_mean_length(batch: dict) -> dict:
    """Adds `chosen["mean_length"]`: tokens of a chosen completion, the mean over the whole step.

    With it a mean over tokens is one over pairs as well, of Σₜ / mean length, and the two can be added pair by pair.
    """
    chosen, weight = batch["chosen"], batch["weight"]
    mean = Weighted.of(completion_lengths(chosen), weight).mean()
    mean_length = jnp.full(weight.shape, jnp.maximum(mean, 1.0))
    return {**batch, "chosen": {**chosen, "mean_length": mean_length}}


def paired_objective(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    max_completion: int,
    at_once: int | None = None,
    **settings: float,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for a batch with reference log-probabilities, if the loss has any.

    Both completions go through the policy in one forward pass. Logged rewards are β·ρ of the sums, whatever
    the loss does with them, and have the names they have in TRL. `settings` are arguments of the loss by its own
    names, as SimPO's `gamma` or DiscoPOP's `temperature`; `likelihood` there replaces the entry's.

    `at_once` pairs at a time go through the output head together with their loss and its gradient, see `sum_at_once`:
    a matrix product less, for a batch that is not split over devices. None takes the vocabulary in pieces.

    Raises: InputError for a setting that the loss does not have, and for `exo_pair` without label smoothing.
    """
    if at_once is None:
        terms_of = terms_of_pairs(
            policy,
            paired,
            beta=beta,
            label_smoothing=label_smoothing,
            max_completion=max_completion,
            **settings,
        )

        def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
            del key
            terms = terms_of(params, batch)
            return {name: Weighted.of(values, batch["weight"]) for name, values in terms.items()}

        return objective

    terms = checked_terms(paired, beta=beta, label_smoothing=label_smoothing, **settings)

    def of_some(hidden, weights, some):
        at, about = some
        head = weights.astype(hidden.dtype)
        z = jnp.einsum("bnd,vd->bnv", hidden, head, preferred_element_type=jnp.float32)
        cap = policy.config.logit_softcap
        z = z if cap is None else cap * jnp.tanh(z / cap)
        logps = jnp.where(at["mask"] > 0, logps_from_logits(z, at["targets"]), 0.0)
        seen = terms(jnp.sum(logps.reshape(logps.shape[0], 2, -1), axis=-1), **about)
        return Weighted.of(seen["loss"], about["weight"]).total, seen

    def objective_at_once(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        weight = batch["weight"]
        at, b = (
            pair_predictions(policy, params, batch, max_completion=max_completion),
            batch["weight"].shape[0],
        )
        rest = {"mask": at.mask.reshape(b, -1), "targets": at.targets.reshape(b, -1)}, about_pairs(batch)
        hidden = at.hidden.reshape(b, -1, at.hidden.shape[-1])
        total, seen = sum_at_once(of_some, at_once, hidden, output_weights(policy, params), rest)
        measured = {name: Weighted.of(values, weight) for name, values in seen.items()}
        return {**measured, "loss": Weighted(total, jnp.sum(weight))}

    return objective_at_once


def terms_of_pairs(
    policy: Policy, paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0, max_completion: int,
    **settings: float,
) -> Callable:  # fmt: skip
    """`params, batch -> {name: [B]}`: `paired_terms` of a batch under a policy."""
    terms = checked_terms(paired, beta=beta, label_smoothing=label_smoothing, **settings)

    def of(params: PyTree, batch: dict) -> dict[str, Float[Array, " B"]]:
        at = pair_predictions(policy, params, batch, max_completion=max_completion)
        logp = jnp.sum(predicted_logps(policy, params, at), axis=-1).reshape(-1, 2)
        return terms(logp, **about_pairs(batch))

    return of


def pair_predictions(policy: Policy, params: PyTree, batch: dict, *, max_completion: int) -> Predictions:
    """Completion tokens of chosen and rejected in turn, [2B, C], from one forward pass."""
    rows = stacked(batch["chosen"], batch["rejected"])
    hidden = hidden_states(policy, params, rows["tokens"], rows["lengths"])
    return predictions(
        hidden, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=max_completion
    )


def about_pairs(batch: dict) -> dict:
    """What `paired_terms` asks for beside log π, of (chosen, rejected); None where a batch has none."""
    chosen, rejected = batch["chosen"], batch["rejected"]
    reference = None
    if "reference_logp" in chosen:
        reference = jnp.stack([chosen["reference_logp"], rejected["reference_logp"]], axis=-1)
    length = jnp.stack([completion_lengths(chosen), completion_lengths(rejected)], axis=-1)
    return {
        "reference": reference, "length": length, "weight": batch["weight"], "mean_length": chosen.get("mean_length"),
    }  # fmt: skip


def checked_terms(
    paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0, **settings: float
) -> Callable:
    """`paired_terms` with these numbers, once they are known to be arguments of the loss."""
    require(
        paired.loss is not exo_pair_loss or label_smoothing > 0, "exo_pair", f"label_smoothing is {label_smoothing}",
        "more than 0, where the loss is infinite", "Take 1e-3.",
    )  # fmt: skip
    likelihood = settings.pop("likelihood", paired.likelihood)
    taken = inspect.signature(paired.loss).parameters
    for name in settings:
        require(
            name in taken, "paired_objective", f"a setting {name!r}",
            f"this loss has {', '.join(taken)}", "Leave it out, or choose another loss.",
        )  # fmt: skip
    numbers: dict[str, Any] = {
        "beta": beta,
        "label_smoothing": label_smoothing,
        "likelihood": likelihood,
        **settings,
    }
    return partial(paired_terms, paired, **numbers)


def paired_terms(
    paired: PairedLoss,
    logp: Float[Array, "*pairs 2"],
    reference: Float[Array, "*pairs 2"] | None,
    length: Float[Array, "*pairs 2"],
    weight: Float[Array, "*pairs"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
    mean_length: Float[Array, "*pairs"] | None = None,
    likelihood: float = 0.0,
    **settings: Any,
) -> dict[str, Float[Array, "*pairs"]]:
    """The loss of every pair and what is logged beside it, from log π and log π₀ of (chosen, rejected)."""
    # Here and not after the loss alone: 0 times the slope of a loss at nan is nan.
    present = (weight > 0)[..., None]
    logp = jnp.where(present, logp, 0.0)
    logratio = logp
    if paired.reference:
        logratio = jnp.where(present, logp - _given(reference, "reference_logp", "add_reference"), 0.0)
    length = jnp.maximum(length, 1.0)  # a completion without tokens is divided by 1, not by 0
    scaled = logratio / length if paired.per_token else logratio
    arguments = {"logratio": scaled, "logp": logp, "average_logp": logp / length}
    loss = call_by_name(
        paired.loss,
        **{f"chosen_{name}": both[..., 0] for name, both in arguments.items()},
        **{f"rejected_{name}": both[..., 1] for name, both in arguments.items()},
        beta=beta,
        label_smoothing=label_smoothing,
        **settings,
    )
    terms = {}
    if likelihood:
        terms = {"nll_loss": -logp[..., 0] / _given(mean_length, "mean_length", "add_mean_length")}
        loss = loss + likelihood * terms["nll_loss"]
    margin = beta * (logratio[..., 0] - logratio[..., 1])
    return {
        "logps/chosen": logp[..., 0],
        "logps/rejected": logp[..., 1],
        "rewards/chosen": beta * logratio[..., 0],
        "rewards/rejected": beta * logratio[..., 1],
        "rewards/margins": margin,
        "rewards/accuracies": (margin > 0).astype(jnp.float32),
        **terms,
        "loss": loss,
    }


def _given(values: Float[Array, "..."] | None, name: str, step: str) -> Float[Array, "..."]:
    # Left out in silence this would be another loss.
    if values is None:
        refuse("paired_objective", f"a batch without {name}", "this loss reads it", f"Call {step} before.")
    return values


def pairs_at_once(pairs: int, *, max_completion: int, vocab_size: int) -> int | None:
    """For `paired_objective` on one device: how many pairs' logits to have at a time, or None for pieces of the
    vocabulary, where those of a single pair would be too many."""
    each = 2 * max_completion * vocab_size
    if each > LOGITS:
        return None
    return next(n for n in range(max(min(pairs, FEW // each), 1), 0, -1) if pairs % n == 0)


def call_by_name(loss: Callable, **vocabulary) -> Float[Array, "*batch"]:
    """Calls a loss with those words of the vocabulary that its equation uses."""
    wanted = inspect.signature(loss).parameters
    return loss(**{name: value for name, value in vocabulary.items() if name in wanted})


def loss_at_start(paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0) -> float:
    """The loss where policy = reference, so that every log-ratio is 0: what the first step must show.

    Raises: InputError for a loss without a reference, or with a likelihood, whose start depends on the data.
    """
    require(
        paired.reference and not paired.likelihood, "loss_at_start", "a loss that depends on log π itself",
        "one of log-ratios alone", "Ask where paired.reference and not paired.likelihood.",
    )  # fmt: skip
    zero = jnp.zeros(())
    return float(
        call_by_name(
            paired.loss,
            chosen_logratio=zero,
            rejected_logratio=zero,
            beta=beta,
            label_smoothing=label_smoothing,
        )
    )
