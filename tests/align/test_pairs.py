"""Losses on pairs, joined to a policy: what the first step shows, TRL's lengths, and no trace of the batching."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import PAIRED_LOSSES, add_reference, loss_at_start, paired_objective, summed_logps
from prefjax.train import copied, init_state, make_mesh, make_step, place, spread
from prefjax.types import mean_of
from tests.align.test_rows import COMPLETION, VOCAB, brute_force, listed, padded
from tests.policy.goldens import tiny

BETA, SMOOTHING = 0.5, 0.1
NAMES = sorted(PAIRED_LOSSES)


def policy_and_reference():
    policy, params = tiny(num_layers=1)
    return policy, params, tiny(num_layers=1, seed=1)[1]


def batch_of(n, *, width=9, fill=0, seed=2):
    """Ragged pairs, [n, ...]; the last pair has weight 0, as one that only fills a batch."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 6)).tolist() for _ in range(n)]
    sides = [
        [(x, rng.integers(0, VOCAB, rng.integers(1, COMPLETION + 1)).tolist()) for x in prompts] for _ in range(2)
    ]
    chosen, rejected = (padded(side, width=width, fill=fill) for side in sides)
    weight = jnp.ones(n).at[-1].set(0.0)
    return {"index": jnp.arange(n), "weight": weight, "chosen": chosen, "rejected": rejected}


def cut(batch, microbatches):
    """[B, ...] → [M, B/M, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)


@partial(jax.jit, static_argnames="max_completion")
def with_reference(policy, reference, batch, *, max_completion=COMPLETION):
    added = add_reference(policy, max_completion=max_completion)(reference, cut(batch, 1))
    return jax.tree.map(lambda leaf: leaf[0], added)


def objective_of(name, policy, *, max_completion=COMPLETION, beta=BETA):
    return paired_objective(
        policy, PAIRED_LOSSES[name], beta=beta, label_smoothing=SMOOTHING, max_completion=max_completion
    )


@partial(jax.jit, static_argnames="objective")
def means_of(objective, params, batch):
    return mean_of(objective(params, batch, jax.random.key(0)))


@partial(jax.jit, static_argnames="objective")
def mean_and_gradient(objective, params, batch):
    """The mean of every term and the gradient of the mean loss, on one device and at once."""

    def loss(params):
        means = mean_of(objective(params, batch, jax.random.key(0)))
        return means["loss"], means

    (_, means), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return means, grads


def by_step(objective, params, batch, microbatches, placement, **axes):
    """The same two, out of the training step on a mesh: `optax.trace(0)` keeps the gradient that it is given."""
    mesh = make_mesh(**axes)
    optimizer = optax.trace(decay=0.0)
    state = init_state(jax.tree.map(jnp.array, params), optimizer, jax.random.key(0))
    placed = placement(state, mesh)
    step = make_step(objective, optimizer, placed, mesh)
    state, means = step(jax.device_put(state, placed), place(batch, mesh, microbatches))
    return means, state.opt_state.trace


def assert_same(got, want, *, tolerance=1e-6):
    """Means to 1e-6 of themselves, gradients to 1e-6 of the largest entry."""
    (means, grads), (want_means, want_grads) = got, want
    for name, value in want_means.items():
        np.testing.assert_allclose(means[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want_grads))
    assert largest > 0
    for leaf, expected in zip(jax.tree.leaves(grads), jax.tree.leaves(want_grads), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigmoid", math.log(2)), ("ipo", 25.0), ("hinge", 1.0), ("robust", math.log(2)), ("apo_zero", 1.0), ("sppo_hard", 50.0)],
)  # fmt: skip
def test_where_the_policy_is_the_reference(name, value):
    assert loss_at_start(PAIRED_LOSSES[name], beta=0.1, label_smoothing=SMOOTHING) == pytest.approx(value, rel=1e-6)
    policy, params, _ = policy_and_reference()
    batch = with_reference(policy, params, batch_of(4))
    means = means_of(objective_of(name, policy, beta=0.1), params, batch)
    assert means["loss"] == pytest.approx(value, rel=1e-5)
    assert means["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_every_loss_has_been_given_its_value_at_the_start():
    assert set(NAMES) == {"sigmoid", "ipo", "hinge", "robust", "apo_zero", "sppo_hard"}


def log_ratios(policy, params, reference, batch):
    """ρ of both sides by brute force, and the lengths of the completions."""
    texts = [listed(batch[side]) for side in ("chosen", "rejected")]
    ratios = [
        [brute_force(policy, params, x, y) - brute_force(policy, reference, x, y) for x, y in side] for side in texts
    ]
    return np.array(ratios), np.array([[len(y) for _, y in side] for side in texts])


def softplus(x):
    return np.logaddexp(0, x)


# The equations again, in float64, from ρ⁺, ρ⁻ and the lengths. Only IPO's log-ratios are averaged, as in TRL.
EQUATIONS = {
    "sigmoid": lambda c, r, nc, nr: 0.9 * softplus(-BETA * (c - r)) + 0.1 * softplus(BETA * (c - r)),
    "ipo": lambda c, r, nc, nr: (c / nc - r / nr - 1 / (2 * BETA)) ** 2,
    "hinge": lambda c, r, nc, nr: np.maximum(0, 1 - BETA * (c - r)),
    "robust": lambda c, r, nc, nr: (0.9 * softplus(-BETA * (c - r)) - 0.1 * softplus(BETA * (c - r))) / 0.8,
    "apo_zero": lambda c, r, nc, nr: 1 - 1 / (1 + np.exp(-BETA * c)) + 1 / (1 + np.exp(-BETA * r)),
    "sppo_hard": lambda c, r, nc, nr: (c - 1 / (2 * BETA)) ** 2 + (r + 1 / (2 * BETA)) ** 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_its_equation_of_brute_force_log_ratios(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(4))
    (chosen, rejected), lengths = log_ratios(policy, params, reference, batch)
    assert (lengths[0] != lengths[1]).any()
    want = EQUATIONS[name](chosen, rejected, *lengths)[:3].mean()  # the fourth has weight 0
    got = means_of(objective_of(name, policy), params, batch)["loss"]
    assert got == pytest.approx(want, rel=2e-5)


def test_what_is_logged_beside_the_loss():
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(4))
    (chosen, rejected), _ = log_ratios(policy, params, reference, batch)
    logp = [np.mean([brute_force(policy, params, x, y) for x, y in listed(batch[s])[:3]]) for s in ("chosen", "rejected")]
    # β times the sums, also for IPO; an accuracy is strict.
    want = {
        "logps/chosen": logp[0],
        "logps/rejected": logp[1],
        "rewards/chosen": BETA * chosen[:3].mean(),
        "rewards/rejected": BETA * rejected[:3].mean(),
        "rewards/margins": BETA * (chosen - rejected)[:3].mean(),
        "rewards/accuracies": (chosen > rejected)[:3].mean(),
    }
    for name in ("sigmoid", "ipo"):
        means = means_of(objective_of(name, policy), params, batch)
        assert set(means) == {*want, "loss"}
        for term, value in want.items():
            assert means[term] == pytest.approx(value, abs=2e-5), term
    assert 0 < want["rewards/accuracies"] < 1


def test_the_reference_is_added_row_by_row_and_takes_no_gradient():
    policy, _, reference = policy_and_reference()
    batch = batch_of(8)
    added = add_reference(policy, max_completion=COMPLETION)(reference, cut(batch, 2))
    for side in ("chosen", "rejected"):
        direct = summed_logps(policy, reference, batch[side], max_completion=COMPLETION)
        np.testing.assert_allclose(added[side]["reference_logp"].reshape(-1), direct, atol=1e-5)
        brute = [brute_force(policy, reference, x, y) for x, y in listed(batch[side])]
        np.testing.assert_allclose(direct, brute, atol=2e-5)
    assert {"index", "weight", "chosen", "rejected"} == set(added)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_neither_loss_nor_gradient(name):
    policy, params, reference = policy_and_reference()
    tight = with_reference(policy, reference, batch_of(4))
    wide = with_reference(policy, reference, batch_of(4, width=14, fill=7), max_completion=COMPLETION + 3)
    want = mean_and_gradient(objective_of(name, policy), params, tight)
    got = mean_and_gradient(objective_of(name, policy, max_completion=COMPLETION + 3), params, wide)
    assert_same(got, want, tolerance=3e-6)  # two programs of other shapes also sum in another order


@pytest.mark.parametrize("name", NAMES)
def test_microbatches_and_meshes_change_neither_loss_nor_gradient(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(16))
    objective = objective_of(name, policy)
    want = mean_and_gradient(objective, params, batch)
    assert_same(by_step(objective, params, batch, 4, copied), want)
    assert_same(by_step(objective, params, batch, 1, copied, data=8), want)
    assert_same(by_step(objective, params, batch, 2, spread, data=4, fsdp=2), want)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_0_are_absent(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(4))
    other = with_reference(policy, reference, batch_of(4, seed=1))
    mixed = jax.tree.map(lambda a, b: a.at[-1].set(b[-1]), batch, other) | {"weight": batch["weight"]}
    objective = objective_of(name, policy)
    assert_same(mean_and_gradient(objective, params, mixed), mean_and_gradient(objective, params, batch))
    without = jax.tree.map(lambda leaf: leaf[:3], batch)
    assert_same(mean_and_gradient(objective, params, without), mean_and_gradient(objective, params, batch), tolerance=3e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_weight_0_may_even_be_nan(name):
    policy, params, reference = policy_and_reference()
    batch = with_reference(policy, reference, batch_of(4))
    objective = objective_of(name, policy)
    want = mean_and_gradient(objective, params, batch)
    spoilt = batch["chosen"]["reference_logp"].at[-1].set(jnp.nan)
    batch["chosen"] = {**batch["chosen"], "reference_logp": spoilt}
    assert_same(mean_and_gradient(objective, params, batch), want)
