"""Losses on preference pairs joined to a policy: DPO and its relatives, by name from `prefjax.align.paired_losses`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from prefjax.align.paired_losses import SIDES, PairedLoss, call_by_name, checked_terms
from prefjax.align.rows import completion_lengths, stacked
from prefjax.losses import ld_dpo_logp, wpo_weights
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
from prefjax.types import Weighted

LOGITS = 2**26  # of one pair, 256 MiB: more are not held at a time
FEW = 2**24  # small pairs go together up to this many
SHARP = 0.5  # the temperature at which `log Σᵥ p²` is found, see `about_policy`
ROWS = ("tokens", "prompt_lengths", "lengths")


class Tokens(NamedTuple):
    """What a policy says of the completions of pairs, token by token.

    Attributes:
      logps, mask: of every token, 0 where there is none.
      sharp: log-probabilities at temperature 1/2, for WPO.
      logits: for a loss that asks for `kl`.
    """

    logps: Float[Array, "B 2 C"]
    mask: Float[Array, "B 2 C"]
    sharp: Float[Array, "B 2 C"] | None = None
    logits: Float[Array, "B 2 C V"] | None = None


def add_reference(
    policy: Policy, *, max_completion: int, paired: PairedLoss | None = None, ld_alpha: float | None = None
) -> Callable:
    """`reference_params, batch -> batch` with log π₀ of both completions, as `reference_logp`.

    The reference is an input, not a part of the step: it is never differentiated, and what made it is known.
    Leaves are [M, B, ...], one microbatch after another.

    Args:
      paired: adds what this loss asks for beside it: `reference_logps` of the tokens, or, for a `kl`, all of the
        reference's next-token distributions as `reference_distributions`, V float32 numbers for each token.
      ld_alpha: as of `paired_objective`.
    """
    words = paired.words if paired is not None else frozenset()

    def add(reference_params: PyTree, batch: dict) -> dict:
        def one(microbatch):
            at = pair_predictions(policy, reference_params, microbatch, max_completion=max_completion)
            logps, mask = in_pairs(predicted_logps(policy, reference_params, at)), in_pairs(at.mask)
            added = {"reference_logp": sequence_logp(logps, mask, ld_alpha)}
            if "reference_logps" in words:
                added["reference_logps"] = logps
            if "kl" in words:
                z = in_pairs(_logits(policy, at.hidden, output_weights(policy, reference_params)))
                added["reference_distributions"] = jax.nn.log_softmax(z)
            return added

        added = jax.lax.map(one, {side: batch[side] for side in SIDES})
        of_side = {
            side: {name: both[:, :, i] for name, both in added.items()} for i, side in enumerate(SIDES)
        }
        return {**batch, **{side: {**batch[side], **of_side[side]} for side in SIDES}}

    return add


def add_mean_length(batch: dict) -> dict:
    """Adds `chosen["mean_length"]`: tokens of a chosen completion, the mean over the whole step.

    With it a mean over tokens is one over pairs as well, of Σₜ / mean length, and the two can be added pair by pair.
    """
    chosen, weight = batch["chosen"], batch["weight"]
    mean = Weighted.of(completion_lengths(chosen), weight).mean()
    mean_length = jnp.full(weight.shape, jnp.maximum(mean, 1.0))
    return {**batch, "chosen": {**chosen, "mean_length": mean_length}}


def add_pair_statistics(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float,
    max_completion: int,
    ld_alpha: float | None = None,
    **settings: float,
) -> Callable:
    """`params, batch -> batch` with `statistics`, what `paired.statistics` makes of all pairs of the step.

    They are those of the policy before the step, from a forward pass of their own, so that neither microbatches nor
    devices show in them. The batch has its reference already. Leaves are [M, B, ...].
    """
    statistics = paired.statistics
    if statistics is None:
        return lambda params, batch: batch

    def add(params: PyTree, batch: dict) -> dict:
        def one(microbatch):
            at = pair_predictions(policy, params, microbatch, max_completion=max_completion)
            return sequence_logp(in_pairs(predicted_logps(policy, params, at)), in_pairs(at.mask), ld_alpha)

        weight = batch["weight"]
        logratio = jax.lax.map(one, {side: batch[side] for side in SIDES})
        if paired.reference:
            logratio -= jnp.stack([batch[side]["reference_logp"] for side in SIDES], axis=-1)
        present = (weight > 0).reshape(-1)
        flat = jnp.where(present[:, None], logratio.reshape(-1, 2), 0.0)
        found = call_by_name(
            statistics, chosen_logratio=flat[:, 0], rejected_logratio=flat[:, 1],
            mask=present.astype(jnp.float32), beta=beta, **settings,
        )  # fmt: skip
        return {**batch, "statistics": {name: jnp.full(weight.shape, value) for name, value in found.items()}}

    return add


def paired_objective(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    max_completion: int,
    at_once: int | None = None,
    link: Callable | None = None,
    use_weighting: bool = False,
    ld_alpha: float | None = None,
    **settings: float,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for a batch with reference log-probabilities, if the loss has any.

    Both completions go through the policy in one forward pass. Logged rewards are β·ρ of the sums, whatever
    the loss does with them, and have the names they have in TRL.

    Args:
      at_once: so many pairs at a time go through the output head together with their loss and its gradient, see
        `sum_at_once`: a matrix product less, for a batch that is not split over devices. None takes the vocabulary in
        pieces, and so does a loss that mixes pairs.
      link: of an f-divergence, as `forward_kl_link` (f-DPO), in the place of log-ratios.
      use_weighting: the loss of a pair counts as much as the policy would have written it (WPO).
      ld_alpha: what the tokens of a completion count that are beyond the length of the other one of its pair
        (LD-DPO); the same number belongs to `add_reference`. None: 1.
      settings: arguments of the loss by its own names, as SimPO's `gamma` or DiscoPOP's `temperature`; `likelihood`
        there replaces the entry's.

    Raises: InputError for a setting that the loss does not have, and for `exo_pair` without label smoothing.
    """
    numbers: dict[str, Any] = {"beta": beta, "label_smoothing": label_smoothing, "link": link, **settings}
    asked: dict[str, Any] = {"ld_alpha": ld_alpha, "use_weighting": use_weighting}
    if at_once is None or paired.coupled:
        terms_of = terms_of_pairs(policy, paired, max_completion=max_completion, **asked, **numbers)

        def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
            del key
            terms = terms_of(params, batch)
            return {name: Weighted.of(values, batch["weight"]) for name, values in terms.items()}

        return objective

    terms = checked_terms(paired, **numbers)

    def of_some(hidden, weights, some):
        at, about = some
        z = _logits(policy, hidden, weights)
        logps, sharp = (
            jnp.where(at["mask"] > 0, logps_from_logits(z / temperature, at["targets"]), 0.0)
            for temperature in (1.0, SHARP)
        )
        seen = terms(**about_policy(about, Tokens(logps, at["mask"], sharp, z), **asked))
        return Weighted.of(seen["loss"], about["weight"]).total, seen

    def objective_at_once(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        weight = batch["weight"]
        at = pair_predictions(policy, params, batch, max_completion=max_completion)
        rest = {"targets": in_pairs(at.targets), "mask": in_pairs(at.mask)}, about_pairs(batch)
        head = output_weights(policy, params)
        total, seen = sum_at_once(of_some, at_once, in_pairs(at.hidden), head, rest)
        measured = {name: Weighted.of(values, weight) for name, values in seen.items()}
        return {**measured, "loss": Weighted(total, jnp.sum(weight))}

    return objective_at_once


def terms_of_pairs(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    max_completion: int,
    link: Callable | None = None,
    use_weighting: bool = False,
    ld_alpha: float | None = None,
    **settings: float,
) -> Callable:
    """`params, batch -> {name: [B]}`: `paired_terms` of a batch under a policy; arguments as of `paired_objective`."""
    terms = checked_terms(paired, beta=beta, label_smoothing=label_smoothing, link=link, **settings)

    def of(params: PyTree, batch: dict) -> dict[str, Float[Array, " B"]]:
        at = pair_predictions(policy, params, batch, max_completion=max_completion)
        sharp = logits = None
        if use_weighting:
            sharp = in_pairs(predicted_logps(policy, params, at, temperature=SHARP))
        if "kl" in paired.words:
            logits = in_pairs(_logits(policy, at.hidden, output_weights(policy, params)))
        tokens = Tokens(in_pairs(predicted_logps(policy, params, at)), in_pairs(at.mask), sharp, logits)
        about = about_pairs(batch)
        return terms(**about_policy(about, tokens, ld_alpha=ld_alpha, use_weighting=use_weighting))

    return of


def pair_predictions(policy: Policy, params: PyTree, batch: dict, *, max_completion: int) -> Predictions:
    """Completion tokens of chosen and rejected in turn, [2B, C], from one forward pass."""
    rows = stacked(batch["chosen"], batch["rejected"])
    hidden = hidden_states(policy, params, rows["tokens"], rows["lengths"])
    return predictions(
        hidden, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=max_completion
    )


def in_pairs(leaf: Shaped[Array, "rows ..."]) -> Shaped[Array, "pairs 2 ..."]:
    """What `pair_predictions` has in turn, side by side."""
    return leaf.reshape(-1, 2, *leaf.shape[1:])


def about_pairs(batch: dict) -> dict:
    """What a batch holds beside tokens, as `paired_terms` takes it: every number of both completions, [B, 2, …],
    every number of the pair, [B], and what `add_pair_statistics` has left."""
    chosen, rejected, weight = batch["chosen"], batch["rejected"], batch["weight"]
    sides = {
        name: jnp.stack([chosen[name], rejected[name]], axis=1)
        for name in chosen
        if name not in ROWS and name in rejected
    }
    sides["length"] = jnp.stack([completion_lengths(chosen), completion_lengths(rejected)], axis=1)
    words = {name: leaf for name, leaf in batch.items() if getattr(leaf, "shape", None) == weight.shape}
    words |= {"mean_length": chosen["mean_length"]} if "mean_length" in chosen else {}
    return {"sides": sides, "weight": weight, "words": words, "statistics": batch.get("statistics", {})}


def about_policy(about: dict, tokens: Tokens, *, ld_alpha: float | None, use_weighting: bool) -> dict:
    """`about_pairs` and what a policy says: all that `paired_terms` asks for, by name."""
    sides = {**about["sides"], "logps": tokens.logps, "mask": tokens.mask}
    sides["logp"] = sequence_logp(tokens.logps, tokens.mask, ld_alpha)
    distributions = sides.pop("reference_distributions", None)
    if distributions is not None and tokens.logits is not None:
        gap = distributions - jax.nn.log_softmax(tokens.logits)
        sides["kl"] = jnp.sum(jnp.sum(jnp.exp(distributions) * gap, axis=-1) * tokens.mask, axis=-1)
    made = {**about, "sides": sides}
    # A number for all, repeated so that a batch may be cut anywhere.
    made["words"] = {**about["words"], **{name: word[0] for name, word in made.pop("statistics").items()}}
    if use_weighting and tokens.sharp is not None:
        # At temperature 1/2 log p is 2z - log Σ exp 2z, so that this is log Σᵥ p².
        each = wpo_weights(tokens.logps, 2 * tokens.logps - tokens.sharp, tokens.mask)
        made["pair_weight"] = jnp.prod(each, axis=-1)
    return made


def sequence_logp(
    logps: Float[Array, "*pairs 2 C"], mask: Float[Array, "*pairs 2 C"], ld_alpha: float | None
) -> Float[Array, "*pairs 2"]:
    """log π(y|x) of both completions; with `ld_alpha` as LD-DPO has it."""
    if ld_alpha is None:
        return jnp.sum(logps, axis=-1)
    lengths = jnp.sum(mask, axis=-1)
    return ld_dpo_logp(logps, mask, lengths[..., ::-1], alpha=ld_alpha)


def pairs_at_once(pairs: int, *, max_completion: int, vocab_size: int) -> int | None:
    """For `paired_objective` on one device: how many pairs' logits to have at a time, or None for pieces of the
    vocabulary, where those of a single pair would be too many."""
    each = 2 * max_completion * vocab_size
    if each > LOGITS:
        return None
    return next(n for n in range(max(min(pairs, FEW // each), 1), 0, -1) if pairs % n == 0)


def _logits(
    policy: Policy, hidden: Float[Array, "*batch D"], weights: Float[Array, "V D"]
) -> Float[Array, "*batch V"]:
    z = jnp.einsum("...d,vd->...v", hidden, weights.astype(hidden.dtype), preferred_element_type=jnp.float32)
    cap = policy.config.logit_softcap
    return z if cap is None else cap * jnp.tanh(z / cap)
