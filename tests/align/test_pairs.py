"""Losses on pairs, joined to a policy: what the first step shows, TRL's lengths, and no trace of the batching."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import (
    PAIRED_LOSSES,
    PairedLoss,
    add_reference,
    call_by_name,
    loss_at_start,
    paired_objective,
)
from prefjax.align.pairs import add_mean_length
from prefjax.checks import InputError
from prefjax.train import copied, init_state, make_mesh, make_step, place, spread
from prefjax.types import Weighted, mean_of
from tests.align.test_rows import COMPLETION, VOCAB, brute_force, listed, padded
from tests.policy.goldens import tiny

BETA, SMOOTHING = 0.5, 0.1
# Those of log-ratios alone. Four others have tests of their own at the end, and what the rest are given is in
# test_paired_words.py.
NAMES = sorted(
    name
    for name, paired in PAIRED_LOSSES.items()
    if paired.words == {"logratio"} and paired.known_at_start and not (paired.coupled or paired.statistics)
)
OTHERS = ["cpo", "orpo", "rpo", "simpo"]
SIDES = ("chosen", "rejected")
each_loss = pytest.mark.parametrize("name", NAMES)


@cache
def policy_and_reference():
    policy, params = tiny(num_layers=1)
    return policy, params, tiny(num_layers=1, seed=1)[1]


def batch_of(n, *, width=9, fill=0, seed=3):
    """Ragged pairs, [n, ...]; the last pair has weight 0, as one that only fills a batch."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 6)).tolist() for _ in range(n)]
    chosen, rejected = (
        padded(
            [(x, rng.integers(0, VOCAB, rng.integers(1, COMPLETION + 1)).tolist()) for x in prompts],
            width=width,
            fill=fill,
        )
        for _ in range(2)
    )
    weight = jnp.ones(n).at[-1].set(0.0)
    return {"index": jnp.arange(n), "weight": weight, "chosen": chosen, "rejected": rejected}


@partial(jax.jit, static_argnames=("max_completion", "microbatches"))
def with_reference(policy, reference, batch, *, max_completion=COMPLETION, microbatches=1):
    cut = jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)
    added = add_mean_length(add_reference(policy, max_completion=max_completion)(reference, cut))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), added)


@jax.jit
def every_mean(policy, params, batch):
    """All terms of all losses."""
    return {
        name: mean_of(
            paired_objective(
                policy, paired, beta=BETA, label_smoothing=SMOOTHING, max_completion=COMPLETION
            )(params, batch, jax.random.key(0))
        )
        for name, paired in PAIRED_LOSSES.items()
        if name in NAMES or name in OTHERS
    }  # fmt: skip


# The values are those of β = 0.1 and ε = 0.1.
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sigmoid", math.log(2)), ("ipo", 25.0), ("hinge", 1.0),
        ("robust", math.log(2)), ("apo_zero", 1.0), ("sppo_hard", 50.0), ("sigmoid_norm", math.log(2)),
        ("apo_down", 1.0), ("nca_pair", 2 * math.log(2)), ("bco_pair", 2 * math.log(2)),
        ("discopop", (1 + math.log(2)) / 2), ("exo_pair", 0.5 * math.log(0.25 / 0.09)), ("aot", math.log(2)),
        ("aot_unpaired", math.log(2)), ("tdpo2", math.log(2)), ("dynamic_beta", math.log(2)), ("dpop", math.log(2)),
    ],
)  # fmt: skip
def test_the_loss_at_the_start(name, value):
    paired = PAIRED_LOSSES[name]
    assert loss_at_start(paired, beta=0.1, label_smoothing=0.1) == pytest.approx(value, rel=1e-6)


@each_loss
def test_where_the_policy_is_the_reference_the_loss_is_that_at_the_start(name):
    policy, params, _ = policy_and_reference()
    means = every_mean(policy, params, with_reference(policy, params, batch_of(4)))[name]
    start = loss_at_start(PAIRED_LOSSES[name], beta=BETA, label_smoothing=SMOOTHING)
    assert means["loss"] == pytest.approx(start, rel=1e-5)
    assert means["rewards/margins"] == pytest.approx(0, abs=1e-5)


@cache
def log_ratios():
    """ρ of both sides of the four pairs, by brute force, and the lengths of their completions."""
    policy, params, reference = policy_and_reference()
    batch = batch_of(4)
    texts = [listed(batch[side]) for side in SIDES]
    ratios = [
        [brute_force(policy, params, x, y) - brute_force(policy, reference, x, y) for x, y in side]
        for side in texts
    ]
    return np.array(ratios), np.array([[len(y) for _, y in side] for side in texts])


def softplus(x):
    return np.logaddexp(0, x)


# The equations again, in float64, of ρ⁺, ρ⁻ and the lengths. Only IPO's log-ratios are averaged, as in TRL.
EQUATIONS = {
    "sigmoid": lambda c, r, nc, nr: 0.9 * softplus(-BETA * (c - r)) + 0.1 * softplus(BETA * (c - r)),
    "ipo": lambda c, r, nc, nr: (c / nc - r / nr - 1 / (2 * BETA)) ** 2,
    "hinge": lambda c, r, nc, nr: np.maximum(0, 1 - BETA * (c - r)),
    "robust": lambda c, r, nc, nr: (0.9 * softplus(-BETA * (c - r)) - 0.1 * softplus(BETA * (c - r))) / 0.8,
    "apo_zero": lambda c, r, nc, nr: 1 / (1 + np.exp(BETA * c)) + 1 / (1 + np.exp(-BETA * r)),
    "sppo_hard": lambda c, r, nc, nr: (c - 1 / (2 * BETA)) ** 2 + (r + 1 / (2 * BETA)) ** 2,
    "sigmoid_norm": lambda c, r, nc, nr: (
        0.9 * softplus(-BETA * (c / nc - r / nr)) + 0.1 * softplus(BETA * (c / nc - r / nr))
    ),
    "exo_pair": lambda c, r, nc, nr: exo(1 / (1 + np.exp(-BETA * (c - r)))),
    "nca_pair": lambda c, r, nc, nr: softplus(-BETA * c) + softplus(BETA * c) / 2 + softplus(BETA * r) / 2,
    "bco_pair": lambda c, r, nc, nr: softplus(-BETA * c) + softplus(BETA * r),
    "apo_down": lambda c, r, nc, nr: 1 / (1 + np.exp(-BETA * c)) + 1 / (1 + np.exp(BETA * (c - r))),
    "discopop": lambda c, r, nc, nr: discopop(BETA * (c - r)),
    "dpop": lambda c, r, nc, nr: softplus(-BETA * (c - r - 5 * np.maximum(0, -c))),
    "dno_prct": lambda c, r, nc, nr: softplus(-BETA * (c - r)),
}


def exo(q):
    return q * np.log(q / 0.9) + (1 - q) * np.log((1 - q) / 0.1)


def discopop(z):
    mix = 1 / (1 + np.exp(-z / 0.05))
    return (1 - mix) * softplus(-z) + mix * np.exp(-z)


@each_loss
def test_the_loss_is_its_equation_of_brute_force_log_ratios(name):
    policy, params, reference = policy_and_reference()
    (chosen, rejected), lengths = log_ratios()
    assert (lengths[0] != lengths[1]).any()
    want = EQUATIONS[name](chosen, rejected, *lengths)[:3].mean()  # the fourth has weight 0
    means = every_mean(policy, params, with_reference(policy, reference, batch_of(4)))[name]
    assert means["loss"] == pytest.approx(want, rel=2e-5)


@each_loss
def test_what_is_logged_beside_the_loss(name):
    policy, params, reference = policy_and_reference()
    batch = batch_of(4)
    (chosen, rejected), _ = log_ratios()
    logp = {s: np.mean([brute_force(policy, params, x, y) for x, y in listed(batch[s])[:3]]) for s in SIDES}
    # β times the sums, also for IPO; an accuracy is strict.
    want = {
        "logps/chosen": logp["chosen"],
        "logps/rejected": logp["rejected"],
        "rewards/chosen": BETA * chosen[:3].mean(),
        "rewards/rejected": BETA * rejected[:3].mean(),
        "rewards/margins": BETA * (chosen - rejected)[:3].mean(),
        "rewards/accuracies": (chosen > rejected)[:3].mean(),
    }
    assert 0 < want["rewards/accuracies"] < 1
    means = every_mean(policy, params, with_reference(policy, reference, batch))[name]
    assert set(means) == {*want, "loss"}
    for term, value in want.items():
        assert means[term] == pytest.approx(value, abs=2e-5), term


def test_the_reference_is_added_row_by_row_whatever_the_microbatches():
    policy, _, reference = policy_and_reference()
    batch = batch_of(4)
    for microbatches in (1, 2):
        added = with_reference(policy, reference, batch, microbatches=microbatches)
        assert set(added) == set(batch)
        for side in SIDES:
            want = [brute_force(policy, reference, x, y) for x, y in listed(batch[side])]
            np.testing.assert_allclose(added[side]["reference_logp"], want, atol=2e-5)
            assert listed(added[side]) == listed(batch[side])


@cache
def by_choice(policy, *, max_completion=COMPLETION):
    """All losses in one program, as compiling takes the time: the loss is Σₖ choiceₖ lossₖ."""

    def objective(params, batch, key):
        choice = dict(zip(NAMES, batch["choice"][0], strict=True))

        def part(per_token):
            names = [name for name in NAMES if PAIRED_LOSSES[name].per_token == per_token]

            # The signature names what the loss is given.
            def loss(chosen_logratio, rejected_logratio, beta, label_smoothing):
                words = {
                    "chosen_logratio": chosen_logratio,
                    "rejected_logratio": rejected_logratio,
                    "beta": beta,
                    "label_smoothing": label_smoothing,
                }
                return sum(choice[name] * call_by_name(PAIRED_LOSSES[name].loss, **words) for name in names)

            return paired_objective(
                policy,
                PairedLoss(loss, per_token),
                beta=BETA,
                label_smoothing=SMOOTHING,
                max_completion=max_completion,
            )(params, batch, key)

        summed, averaged = part(False), part(True)
        total = summed["loss"].total + averaged["loss"].total
        return {**summed, "loss": Weighted(total, summed["loss"].weight)}

    return objective


def choosing(name, batch):
    rows = len(batch["weight"])
    return {**batch, "choice": jnp.tile(jnp.array([float(name == other) for other in NAMES]), (rows, 1))}


@partial(jax.jit, static_argnames="objective")
def at_once(objective, params, batch):
    """The mean of every term and the gradient of the mean loss, on one device."""

    def loss(params):
        means = mean_of(objective(params, batch, jax.random.key(0)))
        return means["loss"], means

    (_, means), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return means, grads


@cache
def training_step(objective, microbatches, placement, **axes):
    """The same two out of a training step on a mesh: `optax.trace(0)` keeps the gradient that it is given."""
    mesh, optimizer = make_mesh(**axes), optax.trace(decay=0.0)

    def state_of(params):
        return init_state(jax.tree.map(jnp.array, params), optimizer, jax.random.key(0))

    placed = placement(state_of(policy_and_reference()[1]), mesh)
    step = make_step(objective, optimizer, placed, mesh)

    def run(params, batch):
        state, means = step(jax.device_put(state_of(params), placed), place(batch, mesh, microbatches))
        return means, state.opt_state.trace

    return run


def assert_same(got, want, *, tolerance=1e-6):
    """Means to 1e-6 of themselves, gradients to 1e-6 of the largest entry."""
    (means, grads), (want_means, want_grads) = got, want
    for name, value in want_means.items():
        np.testing.assert_allclose(means[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want_grads))
    assert largest > 1e-3
    for leaf, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=tolerance * largest)


@each_loss
def test_padding_changes_neither_loss_nor_gradient(name):
    policy, params, reference = policy_and_reference()
    tight = with_reference(policy, reference, batch_of(16))
    wide = with_reference(policy, reference, batch_of(16, width=14, fill=7), max_completion=COMPLETION + 3)
    want = at_once(by_choice(policy), params, choosing(name, tight))
    got = at_once(by_choice(policy, max_completion=COMPLETION + 3), params, choosing(name, wide))
    # Matrices of another shape are summed in another order, also where all that is added is 0.
    assert_same(got, want, tolerance=3e-6)


@each_loss
def test_microbatches_and_meshes_change_neither_loss_nor_gradient(name):
    policy, params, reference = policy_and_reference()
    batch = choosing(name, with_reference(policy, reference, batch_of(16)))
    objective = by_choice(policy)
    want = at_once(objective, params, batch)
    # DiscoPOP divides by its temperature: a rounding error in z is 20 times as large in z/τ.
    same = partial(assert_same, want=want, tolerance=1e-5 if name == "discopop" else 1e-6)
    same(training_step(objective, 4, copied)(params, batch))
    same(training_step(objective, 1, copied, data=8)(params, batch))
    same(training_step(objective, 2, spread, data=4, fsdp=2)(params, batch))


@each_loss
def test_rows_of_weight_0_are_absent(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(16))
    other = with_reference(policy, reference, batch_of(16, seed=4))
    weight = jnp.ones(16).at[jnp.array([0, 5, 15])].set(0.0)
    mixed = jax.tree.map(
        lambda a, b: jnp.where(weight.reshape(-1, *[1] * (a.ndim - 1)) == 0, b, a), batch, other
    )
    want = at_once(by_choice(policy), params, choosing(name, {**batch, "weight": weight}))
    assert_same(at_once(by_choice(policy), params, choosing(name, {**mixed, "weight": weight})), want)
    means, _ = want
    assert means["loss"] != at_once(by_choice(policy), params, choosing(name, batch))[0]["loss"]


@each_loss
def test_rows_of_weight_0_may_even_be_nan(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(16))
    want = at_once(by_choice(policy), params, choosing(name, batch))
    spoilt = batch["chosen"]["reference_logp"].at[-1].set(jnp.nan)
    batch["chosen"] = {**batch["chosen"], "reference_logp": spoilt}
    assert_same(at_once(by_choice(policy), params, choosing(name, batch)), want)


def test_likelihoods_and_losses_without_a_reference_are_their_equations():
    """CPO, ORPO, SimPO and RPO of brute-force log-probabilities; the likelihood counts every token once."""
    policy, params, reference = policy_and_reference()
    batch = batch_of(4)
    texts = [[*listed(batch[side])][:3] for side in SIDES]  # the fourth has weight 0
    chosen, rejected = (np.array([brute_force(policy, params, x, y) for x, y in side]) for side in texts)
    lengths = np.array([[len(y) for _, y in side] for side in texts])
    nll = -chosen.sum() / lengths[0].sum()
    (chosen_ratio, rejected_ratio), _ = log_ratios()
    margins = {
        "cpo": BETA * (chosen - rejected),
        "rpo": BETA * (chosen_ratio - rejected_ratio)[:3],
        "simpo": BETA * (chosen / lengths[0] - rejected / lengths[1]) - 0.5,
    }
    smooth = {name: 0.9 * softplus(-z) + 0.1 * softplus(z) for name, z in margins.items()}
    odds = [a - np.log1p(-np.exp(a)) for a in (chosen / lengths[0], rejected / lengths[1])]
    want = {
        "cpo": smooth["cpo"].mean() + nll,
        "rpo": smooth["rpo"].mean() + nll,
        "simpo": smooth["simpo"].mean(),
        "orpo": BETA * softplus(odds[1] - odds[0]).mean() + nll,
    }
    assert sorted(want) == OTHERS
    means = every_mean(policy, params, with_reference(policy, reference, batch))
    for name, value in want.items():
        assert means[name]["loss"] == pytest.approx(value, rel=2e-5), name
    assert means["cpo"]["rewards/chosen"] == pytest.approx(BETA * chosen.mean(), rel=2e-5)


def test_a_likelihood_is_averaged_over_the_tokens_of_the_whole_step():
    policy, params, _ = policy_and_reference()
    objective = paired_objective(policy, PAIRED_LOSSES["cpo"], beta=BETA, max_completion=COMPLETION)
    batch = {**batch_of(16), "weight": jnp.ones(16).at[-3:].set(0.0)}
    batch = add_mean_length(batch)
    want = at_once(objective, params, batch)
    assert_same(training_step(objective, 4, copied)(params, batch), want)
    # A third of the likelihood, by its setting.
    less = paired_objective(
        policy, PAIRED_LOSSES["cpo"], beta=BETA, max_completion=COMPLETION, likelihood=1 / 3
    )(params, batch, None)
    means = mean_of(less)
    assert want[0]["loss"] - means["loss"] == pytest.approx(2 / 3 * float(means["nll_loss"]), rel=1e-5)


def test_what_a_loss_does_not_have_is_refused():
    policy, _, _ = policy_and_reference()
    with pytest.raises(InputError, match="a setting 'gamma'"):
        paired_objective(policy, PAIRED_LOSSES["sigmoid"], beta=BETA, max_completion=1, gamma=0.5)
    with pytest.raises(InputError, match="label_smoothing is 0"):
        paired_objective(policy, PAIRED_LOSSES["exo_pair"], beta=BETA, max_completion=1)
    batch = {"chosen": padded([([1], [2])]), "rejected": padded([([1], [3])]), "weight": jnp.ones(1)}
    for name, missing in (("sigmoid", "reference_logp"), ("cpo", "mean_length")):
        objective = paired_objective(policy, PAIRED_LOSSES[name], beta=BETA, max_completion=1)
        with pytest.raises(InputError, match=f"without {missing}"):
            objective(policy_and_reference()[1], batch, None)
    with pytest.raises(InputError, match="depends on log π itself"):
        loss_at_start(PAIRED_LOSSES["cpo"], beta=BETA)
