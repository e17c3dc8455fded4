"""Objectives on packed rows: several sequences in a row of tokens, none of which sees another.

The layout is that of `prefjax.data.pack`. A learned token is predicted by the hidden state of the token before it in
its own sequence, wherever in the row that stands; the log-probability of a sequence is the sum over the tokens it owns.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from prefjax.align.paired_losses import PairedLoss, checked_terms
from prefjax.checks import require
from prefjax.losses import nll_loss
from prefjax.policy import Places, Policy, Predictions, placed_hidden_states, predicted_logps
from prefjax.types import Weighted


def packed_predictions(policy: Policy, params: PyTree, packed: dict, *, max_targets: int) -> Predictions:
    """The learned tokens of packed rows, and the hidden states that predict them, N = `max_targets` places a row."""
    at = Places(packed["positions"], packed["groups"], packed["branches"])
    hidden = placed_hidden_states(policy, params, packed["tokens"], at)
    where, mask = _learned(packed, max_targets)

    def take(leaf):
        return jnp.take_along_axis(leaf, where, axis=1)

    before = jnp.take_along_axis(hidden, take(packed["previous"])[:, :, None], axis=1)
    return Predictions(before, take(packed["tokens"]), mask)


def packed_logps(
    policy: Policy, params: PyTree, packed: dict, *, max_targets: int, sequences: int
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """log π(y|x) of each of S sequences of a row, and how many learned tokens it has."""
    at = packed_predictions(policy, params, packed, max_targets=max_targets)
    where, _ = _learned(packed, max_targets)
    owner = jnp.take_along_axis(packed["owner"], where, axis=1)
    owned = (owner[:, :, None] == jnp.arange(sequences)[None, None, :]) * at.mask[:, :, None]
    logps = predicted_logps(policy, params, at)
    return jnp.einsum("bn,bns->bs", logps, owned), jnp.sum(owned, axis=1)


def packed_sft_objective(policy: Policy, *, max_targets: int) -> Callable:
    """`sft_objective` on packed rows: the same mean over tokens."""

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        at = packed_predictions(policy, params, batch["packed"], max_targets=max_targets)
        return {"loss": Weighted.tokens(nll_loss(predicted_logps(policy, params, at)), at.mask)}

    return objective


def add_packed_reference(policy: Policy, *, max_targets: int) -> Callable:
    """`reference_params, batch -> batch` with `reference_logp` [M, B, 2U], of chosen and rejected in turn."""

    def add(reference_params: PyTree, batch: dict) -> dict:
        sequences = 2 * batch["weight"].shape[-1]

        def one(packed):
            return packed_logps(
                policy, reference_params, packed, max_targets=max_targets, sequences=sequences
            )[0]

        return {**batch, "reference_logp": jax.lax.map(one, batch["packed"])}

    return add


def add_packed_mean_length(batch: dict) -> dict:
    """`add_mean_length` of packed pairs: adds `mean_length` [M, B, U]."""
    packed, weight = batch["packed"], batch["weight"]
    of_chosen = jnp.where(packed["owner"] % 2 == 0, packed["targets"], 0.0)
    mean = Weighted(jnp.sum(of_chosen), jnp.sum(weight)).mean()
    return {**batch, "mean_length": jnp.full(weight.shape, jnp.maximum(mean, 1.0))}


def packed_paired_objective(
    policy: Policy,
    paired: PairedLoss,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    max_targets: int,
    link: Callable | None = None,
    **settings: float,
) -> Callable:
    """`paired_objective` on packed pairs: the same mean over pairs, U of them in a row.

    A loss with a likelihood needs `add_packed_mean_length`. Sums are all that there is of a completion here.

    Raises: InputError for a loss that asks for more than sums.
    """
    require(
        not (paired.of_tokens or paired.columns or paired.statistics), "packed rows",
        f"a loss that reads {', '.join(sorted(paired.of_tokens | paired.columns)) or 'statistics'}",
        "one of sums over completions", "Leave out packing.",
    )  # fmt: skip
    terms_of = checked_terms(paired, beta=beta, label_smoothing=label_smoothing, link=link, **settings)

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        weight = batch["weight"]
        b, units = weight.shape
        logp, length = (
            leaf.reshape(b, units, 2)
            for leaf in packed_logps(
                policy, params, batch["packed"], max_targets=max_targets, sequences=2 * units
            )
        )
        sides = {"logp": logp, "length": length}
        if paired.reference:
            sides["reference_logp"] = batch["reference_logp"].reshape(b, units, 2)
        words = {name: batch[name] for name in ("mean_length",) if name in batch}
        terms = terms_of(sides, weight, words=words)
        return {name: Weighted.of(values, weight) for name, values in terms.items()}

    return objective


def _learned(packed: dict, most: int):
    """Places of learned tokens, in order, `most` of them, and which are any."""
    targets = packed["targets"]
    where = jnp.argsort(targets == 0, axis=1, stable=True)[:, :most]
    return where, jnp.take_along_axis(targets, where, axis=1)
