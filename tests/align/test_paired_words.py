"""What a loss on pairs may ask for by name, against brute force; and WPO, LD-DPO and statistics of a step."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import (
    PAIRED_LOSSES,
    PairedLoss,
    add_mean_length,
    add_pair_statistics,
    add_reference,
    packed_paired_objective,
    paired_objective,
)
from prefjax.checks import InputError
from prefjax.losses import aot_loss, dpo_loss
from prefjax.policy import hidden_states, logits
from prefjax.types import mean_of
from tests.align.test_pairs import SIDES, batch_of, policy_and_reference
from tests.align.test_rows import COMPLETION, listed

BETA, LD_ALPHA, ROWS = 0.5, 0.4, 4
KEY = jax.random.key(0)


def every_word(
    chosen_logp, rejected_logp, chosen_average_logp, rejected_average_logp, chosen_logratio, rejected_logratio,
    chosen_reference_logp, rejected_reference_logp, chosen_length, rejected_length, chosen_kl, rejected_kl,
    chosen_logps, rejected_logps, chosen_reference_logps, rejected_reference_logps, chosen_mask, rejected_mask,
    target_logp, mask, chosen_win_rate, rejected_win_rate, offset, beta, label_smoothing, *, which,
):  # fmt: skip
    """The sum of those words that are asked for."""
    words = dict(locals())
    which = words.pop("which")
    words = {name: word for name, word in words.items() if jnp.ndim(word)}
    placed = jnp.arange(1.0, COMPLETION + 1)  # so that the place of a token counts
    numbers = [(word @ placed if word.ndim == 2 else word) for _, word in sorted(words.items())]
    return sum(which[i] * number for i, number in enumerate(numbers))


WORDS = sorted(
    name
    for name in every_word.__code__.co_varnames[: every_word.__code__.co_argcount]
    if name not in ("beta", "label_smoothing")
)


def summing(which):
    """The loss Σᵢ whichᵢ wordᵢ."""
    return PairedLoss(partial(every_word, which=which))


def whole_batch():
    """Three pairs and a row that only fills, with numbers of their own, and what the reference says of them."""
    policy, params, reference = policy_and_reference()
    batch = batch_of(ROWS)
    rng = np.random.default_rng(5)
    for name in ("offset", "chosen_win_rate", "rejected_win_rate"):
        batch[name] = jnp.asarray(rng.random(ROWS), jnp.float32)
    one = jax.tree.map(lambda leaf: leaf[None], batch)
    added = add_reference(policy, max_completion=COMPLETION, paired=summing(None))(reference, one)
    return policy, params, reference, jax.tree.map(lambda leaf: leaf[0], add_mean_length(added))


@cache
def by_hand():
    """Every word of three pairs, from log-softmax of whole rows."""
    policy, params, reference, batch = whole_batch()
    words = {name: np.asarray(batch[name][:3], np.float64) for name in WORDS if name in batch}
    words["mask"] = np.ones(3)
    placed = np.arange(1.0, COMPLETION + 1)
    for side in SIDES:
        rows = listed(batch[side])[:3]
        for i, (prompt, completion) in enumerate(rows):
            tokens = jnp.asarray([[*prompt, *completion]])
            ours, theirs = (
                np.asarray(
                    jax.nn.log_softmax(
                        logits(policy, p, hidden_states(policy, p, tokens, jnp.array([tokens.size])))
                    ),
                    np.float64,
                )[0, len(prompt) - 1 : -1]
                for p in (params, reference)
            )
            own, other = (leaf[np.arange(len(completion)), completion] for leaf in (ours, theirs))
            n = len(completion)
            number = {
                "logp": own.sum(), "reference_logp": other.sum(), "logratio": own.sum() - other.sum(),
                "average_logp": own.sum() / n, "length": n, "kl": (np.exp(theirs) * (theirs - ours)).sum(),
                "logps": own @ placed[:n], "reference_logps": other @ placed[:n], "mask": placed[:n].sum(),
                "log_squares": np.mean(own - np.log((np.exp(ours) ** 2).sum(axis=-1))),
            }  # fmt: skip
            for name, value in number.items():
                words.setdefault(f"{side}_{name}", np.zeros(3))[i] = value
    words["target_logp"] = words["chosen_logp"]
    return words


def test_every_word_is_what_it_says():
    policy, params, _, batch = whole_batch()

    @jax.jit
    @partial(jax.vmap, in_axes=(None, None, 0))
    def mean_loss(params, batch, which):
        objective = paired_objective(policy, summing(which), beta=BETA, max_completion=COMPLETION)
        return mean_of(objective(params, batch, KEY))["loss"]

    for name, value in zip(WORDS, mean_loss(params, batch, jnp.eye(len(WORDS))), strict=True):
        assert value == pytest.approx(by_hand()[name].mean(), rel=2e-5, abs=2e-5), name


def test_and_so_it_is_where_a_few_pairs_at_a_time_meet_the_output_head():
    policy, params, _, batch = whole_batch()
    which = np.linspace(1.0, 2.0, len(WORDS))
    paired = summing(jnp.asarray(which))
    objective = paired_objective(policy, paired, beta=BETA, max_completion=COMPLETION, at_once=2)
    want = sum(weight * by_hand()[name].mean() for weight, name in zip(which, WORDS, strict=True))
    assert mean_of(jax.jit(objective)(params, batch, KEY))["loss"] == pytest.approx(want, rel=2e-5)


def softplus(x):
    return np.logaddexp(0.0, x)


@pytest.mark.parametrize("at_once", [None, 2])
def test_weights_of_pairs_and_of_late_tokens(at_once):
    """WPO, and LD-DPO, of which the reference has its part."""
    policy, params, reference, batch = whole_batch()
    words, sums = by_hand(), {}
    for side, other in zip(SIDES, SIDES[::-1], strict=True):
        for name in ("logps", "reference_logps"):
            # From Σ t log πₜ alone there is no way back, so once more token by token.
            model = params if name == "logps" else reference
            shared = words[f"{other}_length"]
            sums[f"{side}_{name}"] = [
                sum(logp * (1.0 if t < shared[i] else LD_ALPHA) for t, logp in enumerate(row))
                for i, row in enumerate(token_logps(policy, model, batch[side])[:3])
            ]
    gap = [np.subtract(sums[f"{side}_logps"], sums[f"{side}_reference_logps"]) for side in SIDES]
    weight = np.exp(words["chosen_log_squares"] + words["rejected_log_squares"])
    late = add_reference(policy, max_completion=COMPLETION, ld_alpha=LD_ALPHA)
    one = jax.tree.map(lambda leaf: leaf[None], batch)

    def means(batch, **flags):
        objective = paired_objective(
            policy, PAIRED_LOSSES["sigmoid"], beta=BETA, max_completion=COMPLETION, at_once=at_once, **flags
        )
        return mean_of(jax.jit(objective)(params, batch, KEY))

    weighted = means(batch, use_weighting=True)["loss"]
    plain = softplus(-BETA * (words["chosen_logratio"] - words["rejected_logratio"]))
    assert weighted == pytest.approx((weight * plain).mean(), rel=2e-5)
    desensitised = means(jax.tree.map(lambda leaf: leaf[0], late(reference, one)), ld_alpha=LD_ALPHA)
    assert desensitised["loss"] == pytest.approx(softplus(-BETA * (gap[0] - gap[1])).mean(), rel=2e-5)
    assert (words["chosen_length"] != words["rejected_length"]).any()
    assert desensitised["loss"] != pytest.approx(plain.mean(), rel=1e-3)


def token_logps(policy, params, rows):
    """log π of every token of every completion."""
    return [
        np.asarray(
            jax.nn.log_softmax(
                logits(
                    policy,
                    params,
                    hidden_states(policy, params, jnp.asarray([[*x, *y]]), jnp.array([len(x) + len(y)])),
                )
            ),
            np.float64,
        )[0, len(x) - 1 : -1][np.arange(len(y)), y]
        for x, y in listed(rows)
    ]


def test_no_gradient_through_weights_of_pairs():
    """So that the gradient of one pair's loss is a multiple of DPO's."""
    policy, params, _, batch = whole_batch()
    batch = {**batch, "weight": jnp.array([1.0, 0.0, 0.0, 0.0])}

    @partial(jax.jit, static_argnums=0)
    def gradient(use_weighting, params):
        objective = paired_objective(
            policy,
            PAIRED_LOSSES["sigmoid"],
            beta=BETA,
            max_completion=COMPLETION,
            use_weighting=use_weighting,
        )
        return jax.grad(lambda p: objective(p, batch, KEY)["loss"].total)(params)

    words = by_hand()
    weight = np.exp(words["chosen_log_squares"] + words["rejected_log_squares"])[0]
    for got, plain in zip(
        *map(jax.tree.leaves, (gradient(True, params), gradient(False, params))), strict=True
    ):
        np.testing.assert_allclose(got, weight * plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_statistics_are_of_the_whole_step(microbatches):
    policy, params, _, batch = whole_batch()
    paired = PAIRED_LOSSES["dynamic_beta"]
    cut = jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)
    add = add_pair_statistics(policy, paired, beta=BETA, max_completion=COMPLETION)
    whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.jit(add)(params, cut))
    words = by_hand()
    gap = words["chosen_logratio"] - words["rejected_logratio"]
    np.testing.assert_allclose(whole["statistics"]["batch_margin"], gap.mean(), rtol=2e-5)
    beta = BETA * (1 + 0.6 * gap.mean())
    for at_once in (None, 2):
        objective = paired_objective(policy, paired, beta=BETA, max_completion=COMPLETION, at_once=at_once)
        loss = mean_of(jax.jit(objective)(params, whole, KEY))["loss"]
        assert loss == pytest.approx(softplus(-beta * gap).mean(), rel=2e-5)


def test_a_loss_that_mixes_pairs_sees_all_that_are_there():
    policy, params, _, batch = whole_batch()
    words = {name: jnp.asarray(word, jnp.float32) for name, word in by_hand().items()}
    # A reference that ranks the pairs the other way round, so that each meets another one's margin.
    words["chosen_reference_logp"] = words["rejected_reference_logp"] - (
        words["chosen_logp"] - words["rejected_logp"]
    )
    theirs = jnp.append(words["chosen_reference_logp"], jnp.nan)
    batch["chosen"] = {**batch["chosen"], "reference_logp": theirs}
    want = aot_loss(
        words["chosen_logp"], words["rejected_logp"], words["chosen_reference_logp"],
        words["rejected_reference_logp"], jnp.ones(3), beta=BETA,
    )  # fmt: skip
    want = float(want.mean())
    for at_once in (None, 2):
        objective = paired_objective(
            policy, PAIRED_LOSSES["aot"], beta=BETA, max_completion=COMPLETION, at_once=at_once
        )
        assert mean_of(jax.jit(objective)(params, batch, KEY))["loss"] == pytest.approx(want, rel=2e-5)
    chosen, rejected = (words[f"{side}_logp"] - words[f"{side}_reference_logp"] for side in SIDES)
    pair_by_pair = float(dpo_loss(chosen, rejected, beta=BETA).mean())
    assert want != pytest.approx(pair_by_pair, rel=1e-5)


def test_what_cannot_be_is_refused():
    policy, params, _, batch = whole_batch()
    with pytest.raises(InputError, match="known but for a constant"):
        paired_objective(policy, PAIRED_LOSSES["nca_pair"], beta=BETA, max_completion=1, link=lambda rho: rho)
    for name, word in (
        ("tdpo1", "kl"),
        ("odpo", "offset"),
        ("dno", "win_rate"),
        ("dynamic_beta", "batch_margin"),
    ):
        objective = paired_objective(policy, PAIRED_LOSSES[name], beta=BETA, max_completion=COMPLETION)
        bare = {key: leaf for key, leaf in batch.items() if key in ("index", "weight")}
        sides = {
            side: {key: leaf for key, leaf in batch[side].items() if key != "reference_distributions"}
            for side in SIDES
        }
        with pytest.raises(InputError, match=f"without {word}"):
            objective(params, {**bare, **sides}, KEY)
    for name in ("tdpo2", "cpl", "sppo", "dynamic_beta"):
        with pytest.raises(InputError, match="packed rows"):
            packed_paired_objective(policy, PAIRED_LOSSES[name], beta=BETA, max_targets=4)
