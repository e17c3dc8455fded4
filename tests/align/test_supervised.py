"""Supervised fine-tuning: every completion token of the whole optimiser step counts once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import sft_objective
from prefjax.train import copied, init_state, make_mesh, make_step, place
from prefjax.types import mean_of
from tests.align.test_rows import COMPLETION, brute_force, padded
from tests.policy.goldens import tiny

# The second microbatch has few tokens: a mean of the means of microbatches would be another number.
TEXTS = [
    ([1, 2], [3, 4, 5, 6]), ([6, 1, 1], [7, 2, 2, 9]), ([8], [3, 4, 5]), ([5, 5, 5], [1, 0, 3, 1]),
    ([2], [9]), ([3, 1], [4]), ([4, 10, 7], [2]), ([7], [1, 8]),
]  # fmt: skip
WEIGHT = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])


def test_the_loss_is_the_mean_over_all_tokens_of_the_step():
    policy, params = tiny(num_layers=1)
    present = [text for text, weight in zip(TEXTS, WEIGHT, strict=True) if weight]
    total = sum(brute_force(policy, params, x, y) for x, y in present)
    want = -total / sum(len(y) for _, y in present)

    objective = sft_objective(policy, max_completion=COMPLETION)
    batch = {"index": jnp.arange(8), "weight": WEIGHT, "completion": padded(TEXTS, fill=7)}

    def loss(params):
        return mean_of(objective(params, batch, jax.random.key(0)))["loss"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert value == pytest.approx(want, rel=1e-5)

    optimizer = optax.trace(decay=0.0)  # keeps the gradient that it is given
    for microbatches, axes in ((4, {}), (2, {"data": 2, "fsdp": 2})):
        mesh = make_mesh(**axes)
        state = init_state(jax.tree.map(jnp.array, params), optimizer, jax.random.key(0))
        placed = copied(state, mesh)
        step = make_step(objective, optimizer, placed, mesh)
        state, means = step(jax.device_put(state, placed), place(batch, mesh, microbatches))
        assert means["loss"] == pytest.approx(want, rel=1e-5)
        for got, expected in zip(
            jax.tree.leaves(state.opt_state.trace), jax.tree.leaves(gradient), strict=True
        ):
            np.testing.assert_allclose(got, expected, atol=1e-6)
