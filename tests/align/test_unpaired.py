"""KTO and BCO joined to a policy: equations by brute force, statistics of the whole step, no trace of the batching."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align.unpaired import (
    UNPAIRED_LOSSES,
    add_mean_reward,
    add_mismatched_kl,
    add_unpaired_reference,
    unpaired_objective,
)
from prefjax.types import Weighted, mean_of
from tests.align.enumerated import assert_same_step, cut, flat, step_gradient
from tests.align.test_rows import COMPLETION, VOCAB, brute_force, listed, padded
from tests.policy.goldens import tiny

BETA = 0.5
LABELS = [1, 0, 1, 1, 0, 0, 1, 0]


@cache
def policy_and_reference():
    policy, reference = tiny(num_layers=1)
    return policy, tiny(num_layers=1, seed=1)[1], reference


def rows_of(weights=(1, 1, 1, 1, 1, 1, 0, 0)):
    rng = np.random.default_rng(0)
    texts = [
        tuple(
            rng.integers(0, VOCAB, n).tolist() for n in (rng.integers(1, 6), rng.integers(1, COMPLETION + 1))
        )
        for _ in LABELS
    ]
    weight, label = jnp.array(weights, jnp.float32), jnp.array(LABELS, jnp.float32)
    return {"index": jnp.arange(8), "weight": weight, "label": label, "completion": padded(texts)}


@partial(jax.jit, static_argnames=("policy", "name"))
def extended(policy, params, reference, batch, name, so_far=None):
    batch = add_unpaired_reference(policy, max_completion=COMPLETION)(reference, batch)
    if name == "kto":
        return add_mismatched_kl(policy, max_completion=COMPLETION)(params, reference, batch), so_far
    if name == "bco":
        return add_mean_reward(policy, beta=BETA, max_completion=COMPLETION)(params, batch, so_far)
    return batch, so_far


NOTHING = Weighted(jnp.zeros(()), jnp.zeros(()))
SETTINGS = {"desirable_weight": 1.3, "undesirable_weight": 0.7}


@cache
def brute_ratios():
    """ρ of the six real rows, matched and mismatched."""
    policy, params, reference = policy_and_reference()
    texts = listed(rows_of()["completion"])[:6]
    turned = [(prompt, texts[i - 1][1]) for i, (prompt, _) in enumerate(texts)]
    return tuple(
        np.array(
            [brute_force(policy, params, *text) - brute_force(policy, reference, *text) for text in each]
        )
        for each in (texts, turned)
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", sorted(UNPAIRED_LOSSES))
def test_the_loss_is_its_equation_and_neither_microbatches_nor_devices_can_be_seen(name):
    policy, params, reference = policy_and_reference()
    matched, mismatched = brute_ratios()
    kl = max(0.0, mismatched.mean())
    assert kl > 0.01
    desirable = np.array(LABELS[:6]) > 0
    shift = BETA * matched.mean()
    signed = np.where(desirable, 1, -1)
    weights = np.where(desirable, 1.3, 0.7)
    want = {
        "kto": weights * sigmoid(-signed * BETA * (matched - kl)),
        "apo_zero_unpaired": weights * sigmoid(-signed * BETA * matched),
        "bco": np.logaddexp(0, -signed * (BETA * matched - shift)),
    }[name].mean()
    settings = {} if name == "bco" else SETTINGS
    objective = unpaired_objective(
        policy, UNPAIRED_LOSSES[name], beta=BETA, max_completion=COMPLETION, **settings
    )
    batch = flat(extended(policy, params, reference, cut(rows_of(), 1), name, NOTHING)[0])
    alone = step_gradient(objective, params, batch, 1)
    means = alone[0]
    assert means["loss"] == pytest.approx(want, rel=2e-5)
    rewards = [BETA * matched[desirable].mean(), BETA * matched[~desirable].mean()]
    assert means["rewards/chosen"] == pytest.approx(rewards[0], abs=2e-5)
    assert means["rewards/rejected"] == pytest.approx(rewards[1], abs=2e-5)
    assert means["rewards/margins"] == pytest.approx(rewards[0] - rewards[1], abs=2e-5)
    if name == "kto":
        assert means["kl"] == pytest.approx(kl, abs=2e-5)
    parts = extended(policy, params, reference, cut(rows_of(), 4), name, NOTHING)[0]
    for a, b in zip(jax.tree.leaves(flat(parts)), jax.tree.leaves(batch), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    spoilt = batch["completion"]["reference_logp"].at[6:].set(jnp.nan)
    batch["completion"] = {**batch["completion"], "reference_logp": spoilt}
    if name == "kto":
        for microbatches, axes in ((2, {"data": 2, "fsdp": 2}),):
            assert_same_step(
                step_gradient(objective, params, batch, microbatches, **axes), alone, tolerance=5e-6
            )


def test_where_the_policy_is_the_reference():
    policy, params, _ = policy_and_reference()
    for name, value in (("kto", 0.5), ("bco", math.log(2))):
        batch, _ = extended(policy, params, params, cut(rows_of(), 1), name, NOTHING)
        objective = unpaired_objective(policy, UNPAIRED_LOSSES[name], beta=BETA, max_completion=COMPLETION)
        means = mean_of(objective(params, jax.tree.map(lambda leaf: leaf[0], batch), None))
        assert means["loss"] == pytest.approx(value, abs=1e-5)
        assert means["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_filling_rows_take_no_part_in_the_mismatch_wherever_they_stand():
    policy, params, reference = policy_and_reference()
    batch = rows_of()
    order = jnp.array([6, 0, 1, 7, 2, 3, 4, 5])
    mixed = jax.tree.map(lambda leaf: leaf[order], batch)
    a, b = (extended(policy, params, reference, cut(each, 2), "kto")[0]["kl"] for each in (batch, mixed))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_running_mean_of_bco_is_that_of_all_rows_seen():
    policy, params, reference = policy_and_reference()
    matched, _ = brute_ratios()
    first, so_far = extended(policy, params, reference, cut(rows_of(), 1), "bco", NOTHING)
    fewer = rows_of((1, 1, 0, 0, 0, 0, 0, 0))
    second, so_far = extended(policy, params, reference, cut(fewer, 1), "bco", so_far)
    assert first["shift"][0, 0] == pytest.approx(BETA * matched.mean(), abs=1e-5)
    both = np.concatenate([matched, matched[:2]])
    assert second["shift"][0, 0] == pytest.approx(BETA * both.mean(), abs=1e-5)
    assert so_far.weight == 8


def test_kto_separates_what_was_liked_from_what_was_not():
    policy, params, _ = policy_and_reference()
    objective = unpaired_objective(policy, UNPAIRED_LOSSES["kto"], beta=BETA, max_completion=COMPLETION)
    optimizer = optax.adam(3e-3)
    batch = cut(rows_of((1,) * 8), 1)

    @jax.jit
    def learn(start):
        referenced = add_unpaired_reference(policy, max_completion=COMPLETION)(start, batch)
        add = add_mismatched_kl(policy, max_completion=COMPLETION)

        def step(carry, _):
            params, state = carry
            rows = jax.tree.map(lambda leaf: leaf[0], add(params, start, referenced))

            def loss(params):
                means = mean_of(objective(params, rows, None))
                return means["loss"], means

            grads, means = jax.grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), means

        return jax.lax.scan(step, (start, optimizer.init(start)), None, length=60)[1]

    means = learn(params)
    assert means["loss"][0] == pytest.approx(0.5, abs=1e-5)
    assert means["rewards/margins"][-1] > 2
    assert means["rewards/chosen"][-1] > 0 > means["rewards/rejected"][-1]
    assert means["loss"][-1] < 0.35
