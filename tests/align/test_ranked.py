"""Ranked lists: lists of two are DPO, equal scores cost log K!, absent completions cost nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import (
    PAIRED_LOSSES,
    add_ranked_reference,
    add_reference,
    paired_objective,
    ranked_objective,
)
from prefjax.policy import DecoderConfig, init

POLICY, START = init(DecoderConfig(vocab_size=16, hidden_size=16, num_heads=2), jax.random.key(0))
OTHER = jax.tree.map(lambda leaf: leaf * 1.3, START)
C = 5


def rows(key: int, *shape: int) -> dict:
    dice = np.random.default_rng(key)
    prompt = dice.integers(1, 4, shape)
    return {
        "tokens": dice.integers(0, 16, (*shape, 9)).astype(np.int32),
        "prompt_lengths": prompt.astype(np.int32),
        "lengths": (prompt + dice.integers(1, C + 1, shape)).astype(np.int32),
    }


def lists(key: int, b: int, k: int, present: list[list[int]] | None = None) -> dict:
    ranked = np.ones((1, b, k), np.float32) if present is None else np.array([present], np.float32)
    batch = {"index": np.arange(b)[None], "weight": np.ones((1, b), np.float32), "ranked": ranked}
    return jax.tree.map(jnp.asarray, {**batch, "completions": rows(key, 1, b, k)})


def measured(params, batch, **changes) -> dict:
    batch = jax.tree.map(jnp.asarray, {**batch, **changes})
    batch = add_ranked_reference(POLICY, max_completion=C)(START, batch)
    one = jax.tree.map(lambda leaf: leaf[0], batch)
    objective = ranked_objective(POLICY, beta=0.5, max_completion=C)
    return {name: float(w.mean()) for name, w in objective(params, one, None).items()}


def test_where_policy_is_reference_the_loss_is_log_k_factorial():
    assert measured(START, lists(0, 2, 4))["loss"] == pytest.approx(math.log(24), rel=1e-5)
    ragged = lists(0, 2, 4, [[1, 1, 0, 0], [1, 1, 1, 0]])
    expected = (math.log(2) + math.log(6)) / 2
    assert measured(START, ragged)["loss"] == pytest.approx(expected, rel=1e-5)


def test_lists_of_two_are_dpo_also_in_the_gradient():
    batch = lists(1, 3, 2)
    pairs = {"index": batch["index"], "weight": batch["weight"]}
    for place, name in enumerate(("chosen", "rejected")):
        pairs[name] = {key: leaf[:, :, place] for key, leaf in batch["completions"].items()}
    pairs = add_reference(POLICY, max_completion=C)(START, pairs)
    ranked = add_ranked_reference(POLICY, max_completion=C)(START, batch)
    dpo = paired_objective(POLICY, PAIRED_LOSSES["sigmoid"], beta=0.5, max_completion=C)
    ours = ranked_objective(POLICY, beta=0.5, max_completion=C)

    def loss(objective, batch):
        one = jax.tree.map(lambda leaf: leaf[0], batch)
        return jax.value_and_grad(lambda p: objective(p, one, None)["loss"].mean())(OTHER)

    (a, slope_a), (b, slope_b) = loss(dpo, pairs), loss(ours, ranked)
    assert float(a) == pytest.approx(float(b), rel=1e-5)
    for x, y in zip(jax.tree.leaves(slope_a), jax.tree.leaves(slope_b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_absent_completions_and_rows_of_weight_zero_do_not_matter():
    batch = lists(2, 2, 3, [[1, 1, 0], [1, 1, 0]])
    lists_ = batch["completions"]
    spoilt = {**lists_, "tokens": lists_["tokens"].at[:, :, 2].set(3)}
    assert measured(OTHER, batch) == measured(OTHER, batch, completions=spoilt)
    first = jnp.array([[1.0, 0.0]])
    alone = jax.tree.map(lambda leaf: leaf[:, :1], batch)
    weighted, single = measured(OTHER, batch, weight=first), measured(OTHER, alone)
    assert weighted == pytest.approx(single, rel=1e-5)
