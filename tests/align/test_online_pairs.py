"""Online pairs: who is chosen, who wrote it, and XPO's exact gradient by enumeration."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import PAIRED_LOSSES, add_reference
from prefjax.align.online_pairs import preference_pairs, xpo_objective, xpo_rollout
from prefjax.align.rejection import keep_above, keep_best, rejection_objective
from prefjax.train import make_mesh, place
from tests.align.enumerated import (
    EVERY,
    ROOM,
    STOP,
    N,
    assert_gradient,
    drawn,
    exact_logp,
    flat,
    gradient,
    policy_and_reference,
    prompts_of,
    step_gradient,
    which,
)
from tests.align.test_nash_md import cyclic

ALPHA, BETA = 0.05, 0.5


def test_the_best_is_chosen_and_the_worst_rejected_and_ties_go_to_the_first():
    policy, params, _ = policy_and_reference()
    batch = drawn(policy, params, 12, microbatches=2)
    nan = jnp.nan
    batch["reward"] = jnp.array([[1, 2, 0, 5, 5, 5], [nan, 3, 1, nan, nan, 4]])
    numbers = np.asarray(which(flat(batch)["completion"])).reshape(2, 6)
    pairs = preference_pairs(batch, num_samples=3)
    chosen, rejected = (np.asarray(which(flat(pairs[side]))).reshape(2, 2) for side in ("chosen", "rejected"))
    np.testing.assert_array_equal(chosen[0], numbers[0, [1, 3]])
    np.testing.assert_array_equal(rejected[0], numbers[0, [2, 5]])
    assert (chosen[1, 0], rejected[1, 0]) == (numbers[1, 1], numbers[1, 2])
    np.testing.assert_array_equal(pairs["weight"], [[1, 1], [1, 0]])  # the last prompt has one reward
    np.testing.assert_array_equal(pairs["chosen"]["reward"][0], [2, 5])
    assert pairs["chosen"]["behaviour_logps"].shape == (2, 2, ROOM)
    np.testing.assert_array_equal(pairs["index"], np.asarray(batch["index"])[:, ::3])

    two = preference_pairs(batch)
    np.testing.assert_array_equal(which(flat(two["chosen"]))[:3], numbers[0, [1, 3, 4]])
    np.testing.assert_array_equal(which(flat(two["rejected"]))[:3], numbers[0, [0, 2, 5]])


def test_rejection_keeps_the_best_or_those_above_a_threshold():
    policy, params, _ = policy_and_reference()
    batch = drawn(policy, params, 12, microbatches=2)
    nan = jnp.nan
    batch["reward"] = jnp.array([[1, 2, 0, 5, 5, 5], [nan, 3, 1, nan, nan, nan]])
    numbers = np.asarray(which(flat(batch)["completion"])).reshape(2, 6)
    best = keep_best(batch, num_samples=3)
    np.testing.assert_array_equal(
        which(flat(best["completion"]))[:3], [numbers[0, 1], numbers[0, 3], numbers[1, 1]]
    )
    np.testing.assert_array_equal(best["weight"], [[1, 1], [1, 0]])
    assert best["completion"]["tokens"].shape == (2, 2, 4)
    above = keep_above(batch, threshold=2.0)
    np.testing.assert_array_equal(above["weight"], [[0, 1, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0]])
    for kept in (best, above):
        np.testing.assert_allclose(kept["statistics"]["reward"], 22 / 8)  # of all that were scored


@partial(jax.jit, static_argnames="policy")
def rolled(policy, params, reference, batch, key):
    roll = xpo_rollout(policy, max_new_tokens=ROOM, stop_tokens=(STOP,))
    return roll(params, reference, batch, key)


def test_of_a_pair_the_policy_writes_the_first_and_the_reference_the_second():
    policy, params, reference = policy_and_reference()
    batch = prompts_of(8192, 2)
    pairs = rolled(policy, params, reference, batch, jax.random.key(0))
    np.testing.assert_array_equal(pairs["completion"]["from_reference"][0, :4], [0, 1, 0, 1])
    numbers = np.asarray(which(flat(pairs)["completion"])).reshape(-1, 2)
    for column, tree in zip(numbers.T, (params, reference), strict=True):
        p = np.exp(exact_logp(policy, tree))
        assert np.abs(np.bincount(column, minlength=N) / len(column) - p).sum() / 2 < 0.03
    np.testing.assert_array_equal(flat(pairs)["index"][::2], flat(batch)["index"])
    placed = place(flat(batch), make_mesh(data=4, fsdp=2), 2)
    spread = rolled(policy, params, reference, placed, jax.random.key(0))
    np.testing.assert_array_equal(spread["completion"]["tokens"], pairs["completion"]["tokens"])


def test_xpo_follows_the_gradient_of_dpo_and_optimism():
    """Σ π(y) π₀(ỹ) of the loss on (y, ỹ), the samples held: -log σ(βΔ) + α log π(ỹ), summed by hand."""
    policy, params, reference = policy_and_reference()
    own, other = (index.reshape(-1) for index in jnp.meshgrid(jnp.arange(N), jnp.arange(N), indexing="ij"))
    p, q = (jnp.exp(exact_logp(policy, tree)) for tree in (params, reference))
    reward = cyclic()[own, other]
    numbers = jnp.stack([own, other], axis=1).reshape(-1)
    batch = {
        "index": numbers,
        "weight": jnp.repeat(p[own] * q[other], 2),
        "completion": {
            **jax.tree.map(lambda leaf: leaf[numbers], EVERY),
            "from_reference": jnp.tile(jnp.array([0.0, 1.0]), N * N),
        },
        "reward": jnp.stack([reward, 1 - reward], axis=1).reshape(-1),
    }
    pairs = preference_pairs(jax.tree.map(lambda leaf: leaf[None], batch))
    pairs = add_reference(policy, max_completion=ROOM)(reference, pairs)

    @jax.jit
    @jax.grad
    def exact(params):
        logp = exact_logp(policy, params)
        ratio = logp - exact_logp(policy, reference)
        margin = ratio[own] - ratio[other]
        signed = jnp.where(reward >= 0.5, margin, -margin)
        each = jnp.logaddexp(0.0, -BETA * signed) + ALPHA * logp[other]
        return jnp.sum(p[own] * q[other] * each)

    objective = xpo_objective(policy, PAIRED_LOSSES["sigmoid"], beta=BETA, alpha=ALPHA, max_completion=ROOM)
    got, means = gradient(objective, params, pairs)
    assert_gradient(got, exact(params))
    assert means["loss/xpo"] == pytest.approx(ALPHA * float(q @ exact_logp(policy, params)), abs=1e-5)
    assert means["loss"] == pytest.approx(float(means["loss/dpo"] + means["loss/xpo"]), abs=1e-6)
    at_start = gradient(objective, reference, pairs)[1]
    assert at_start["loss/dpo"] == pytest.approx(math.log(2), abs=1e-5)
    assert at_start["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_where_nothing_is_good_enough_nothing_changes():
    policy, params, _ = policy_and_reference()
    batch = {**drawn(policy, params, 8), "reward": jnp.zeros((1, 8))}
    kept = flat(keep_above(batch, threshold=1.0))
    means, grads = step_gradient(rejection_objective(policy, max_new_tokens=ROOM), params, kept, 1)
    assert means["loss"] == 0
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads)) == 0
