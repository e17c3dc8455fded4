"""Process reward models: the scores read where steps end, and nothing else."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import process_objective
from prefjax.policy import DecoderConfig, hidden_states, init

POLICY, PARAMS = init(
    DecoderConfig(vocab_size=16, hidden_size=16, num_heads=2, num_scores=2), jax.random.key(0)
)
BATCH = {
    "index": np.arange(2),
    "weight": np.ones(2, np.float32),
    "completion": {
        "tokens": np.random.default_rng(0).integers(0, 16, (2, 8)).astype(np.int32),
        "prompt_lengths": np.array([2, 3], np.int32),
        "lengths": np.array([8, 6], np.int32),
    },
    "step_ends": np.array([[3, 7], [5, 5]], np.int32),
    "step_labels": np.array([[1, 0], [1, 0]], np.float32),
    "step_mask": np.array([[1, 1], [1, 0]], np.float32),
}


def loss(params, batch=BATCH) -> float:
    batch = jax.tree.map(jnp.asarray, batch)
    return float(process_objective(POLICY)(params, batch, None)["loss"].mean())


def test_a_head_of_zeros_costs_log_two():
    start = {**PARAMS, "score": {"weight": jnp.zeros((2, 16))}}
    assert loss(start) == pytest.approx(math.log(2), rel=1e-6)


def test_the_mean_of_three_cross_entropies_at_the_ends_of_three_steps():
    rows = BATCH["completion"]
    hidden = np.asarray(
        hidden_states(POLICY, PARAMS, jnp.asarray(rows["tokens"]), jnp.asarray(rows["lengths"]))
    )
    costs = []
    for row, end, label in ((0, 3, 1), (0, 7, 0), (1, 5, 1)):
        wrong, right = np.asarray(PARAMS["score"]["weight"]) @ hidden[row, end]
        p = 1 / (1 + math.exp(wrong - right))
        costs.append(-math.log(p if label else 1 - p))
    assert loss(PARAMS) == pytest.approx(np.mean(costs), rel=1e-5)


def test_absent_steps_and_rows_do_not_matter():
    spoilt = {**BATCH, "step_labels": np.array([[1, 0], [1, 1]], np.float32)}
    assert loss(PARAMS, spoilt) == loss(PARAMS)
    first = {**BATCH, "weight": np.array([1, 0], np.float32)}
    alone = jax.tree.map(lambda leaf: leaf[:1], BATCH)
    assert loss(PARAMS, first) == pytest.approx(loss(PARAMS, alone), rel=1e-6)
