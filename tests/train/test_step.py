"""make_step: how a batch is cut or spread cannot show, and one division makes the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.train import TrainState, copied, init_state, make_mesh, make_step, place, spread
from prefjax.types import Weighted


def _objective(params, batch, key):
    residual = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return {
        "residual": Weighted.of(residual, batch["weight"]),
        "loss": Weighted.of(residual**2, batch["weight"]),
    }


def _batch(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    weight = np.ones(rows, np.float32)
    weight[-3:] = 0.0
    return {
        "x": rng.normal(size=(rows, 8)).astype(np.float32),
        "y": rng.normal(size=rows).astype(np.float32),
        "weight": weight,
    }


def _run(mesh, microbatches, placed_by, steps=3):
    optimizer = optax.adam(0.1)
    params = {"w": jnp.arange(8.0) / 8, "b": jnp.zeros(())}
    state = init_state(params, optimizer, jax.random.key(0))
    placed = placed_by(state, mesh)
    step = make_step(_objective, optimizer, placed, mesh)
    state = jax.device_put(state, placed)
    losses = []
    for index in range(steps):
        state, measured = step(state, place(_batch(seed=index), mesh, microbatches))
        losses.append(float(measured["loss"]))
    return jax.device_get(state.params), losses, measured


def test_first_loss_is_the_mean_over_rows_that_count():
    _, losses, measured = _run(make_mesh(), 1, copied, steps=1)
    batch = _batch()
    residual = (batch["x"] @ (np.arange(8.0) / 8) - batch["y"])[:-3]
    assert losses[0] == pytest.approx(np.mean(residual**2), rel=1e-6)
    assert list(measured) == [
        "residual",
        "loss",
        "grad_norm",
        "update_norm",
    ]  # the order of computation, not of the alphabet


@pytest.mark.parametrize("microbatches", [1, 2, 4])
@pytest.mark.parametrize("axes", [{"data": 1}, {"data": 4}, {"data": 2, "fsdp": 2}])
def test_microbatches_and_meshes_cannot_show(microbatches, axes):
    expected, expected_losses, _ = _run(make_mesh(), 1, copied)
    params, losses, _ = _run(make_mesh(**axes), microbatches, spread)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    np.testing.assert_allclose(params["w"], expected["w"], rtol=2e-6)


def test_a_bare_weighted_gives_a_bare_loss():
    mesh = make_mesh()
    optimizer = optax.sgd(0.5)
    state = TrainState(jnp.array(0), jnp.array(3.0), optimizer.init(jnp.array(3.0)), jax.random.key(0))
    step = make_step(lambda p, b, key: Weighted.of((p - b) ** 2), optimizer, copied(state, mesh), mesh)
    state, loss = step(state, jnp.ones((1, 4)))
    assert float(loss) == pytest.approx(4.0)
    assert float(state.params) == pytest.approx(1.0)  # 3 - 0.5 * 2 * (3 - 1)
    assert int(state.step) == 1


def test_each_microbatch_of_each_step_draws_its_own_key():
    mesh = make_mesh()
    optimizer = optax.sgd(0.0)
    state = init_state(jnp.zeros(()), optimizer, jax.random.key(1))

    def objective(params, batch, key):
        return {"draw": Weighted.of(jax.random.normal(key, batch.shape)), "loss": Weighted.of(batch * params)}

    step = make_step(objective, optimizer, copied(state, mesh), mesh)
    draws = []
    for _ in range(2):
        state, measured = step(state, jnp.ones((2, 1)))
        draws.append(float(measured["draw"]))
    key = jax.random.key(1)
    for number, draw in enumerate(draws):
        named = jax.random.fold_in(key, number)
        each = [jax.random.normal(jax.random.fold_in(named, m), (1,))[0] for m in range(2)]
        assert draw == pytest.approx(float(np.mean(each)), rel=1e-5)
