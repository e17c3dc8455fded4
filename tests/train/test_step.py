"""make_step: how a batch is cut or spread cannot show, and one division makes the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.policy import DecoderConfig, abstract, hidden_states
from prefjax.train import (
    TrainState,
    copied,
    init_state,
    make_measure,
    make_mesh,
    make_step,
    place,
    split_over,
    spread,
)
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


def _decoder(**changes):
    """Four blocks, so that what they keep for the backward pass is most of what there is."""
    config = DecoderConfig(
        vocab_size=64, hidden_size=64, intermediate_size=256, num_layers=4, initializer_range=0.1, **changes
    )
    policy, shapes = abstract(config)

    def objective(params, batch, key):
        del key
        hidden = hidden_states(policy, params, batch["tokens"], batch["lengths"])
        return {"loss": Weighted.of((hidden**3).sum(axis=-1))}

    return objective, shapes


def test_what_the_backward_pass_makes_again_and_how_blocks_are_compiled_change_no_number():
    rng = np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, 64, (4, 16)), "lengths": np.array([16, 12, 7, 1])}
    mesh, optimizer = make_mesh(), optax.trace(decay=0.0)  # whose state is the gradient
    _, shapes = _decoder()
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32), shapes)

    def after_a_step(**how):
        state = init_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0))
        step = make_step(_decoder(**how)[0], optimizer, copied(state, mesh), mesh)
        state, measured = step(state, place(batch, mesh, 1))
        return float(measured["loss"]), state.opt_state.trace

    loss, gradient = after_a_step()
    for how in ({"remat": "block"}, {"remat": "dots", "scan_layers": False}):
        other, other_gradient = after_a_step(**how)
        assert other == pytest.approx(loss, rel=1e-6, abs=1e-6), how
        for a, b in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()), err_msg=str(how))


def test_what_the_backward_pass_makes_again_needs_no_memory():
    """Of blocks that are looped over. Of unrolled ones a CPU's compiler takes back what was to be made again."""
    tokens, lengths = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((8, 128), (8,)))

    def temporary(remat):
        objective, shapes = _decoder(remat=remat)

        def total(params, tokens, lengths):
            return objective(params, {"tokens": tokens, "lengths": lengths}, None)["loss"].total

        compiled = jax.jit(jax.grad(total)).lower(shapes, tokens, lengths).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    none, dots, block = map(temporary, ("none", "dots", "block"))
    assert block < dots < none
    assert block < 0.7 * none


def test_fixed_parameters_are_joined_and_left_alone():
    """The step sees both parts; a gradient, a moment and a change there are of the trained one alone."""
    mesh, optimizer = make_mesh(fsdp=2), optax.adam(0.1)
    whole = {"w": jnp.arange(8.0) / 8, "b": jnp.zeros(())}
    trained, fixed = {"b": whole["b"]}, {"w": jnp.array(whole["w"])}
    state = init_state(trained, optimizer, jax.random.key(0))
    placed = spread(state, mesh)

    def join(params, fixed):
        return {**params, **fixed}

    step = make_step(_objective, optimizer, placed, mesh, join=join)
    measure = make_measure(_objective, placed.params, mesh, join=join)
    batch = place(_batch(), mesh, 2)
    before = measure(trained, batch, jax.random.key(0), fixed)
    state, measured = step(jax.device_put(state, placed), batch, fixed)
    residual = (_batch()["x"] @ np.asarray(whole["w"]) - _batch()["y"])[:-3]
    assert float(measured["loss"]) == pytest.approx(np.mean(residual**2), rel=1e-6)
    assert float(before["loss"].mean()) == pytest.approx(np.mean(residual**2), rel=1e-6)
    assert float(measured["grad_norm"]) == pytest.approx(abs(2 * residual.mean()), rel=1e-5)
    assert set(state.params) == {"b"}
    assert len(jax.tree.leaves(state.opt_state)) == 3  # a count and two moments
    np.testing.assert_array_equal(fixed["w"], whole["w"])


def test_several_updates_of_one_step_are_several_steps():
    """U updates on [U, M, B, …]: the parameters of U steps, the means of their metrics, and one count."""
    mesh, optimizer = make_mesh(data=2), optax.adam(0.1)

    def start():
        return init_state({"w": jnp.arange(8.0) / 8, "b": jnp.zeros(())}, optimizer, jax.random.key(0))

    placed = copied(start(), mesh)
    parts = [place(_batch(seed=seed), mesh, 2) for seed in range(3)]
    one = make_step(_objective, optimizer, placed, mesh)
    state, losses = jax.device_put(start(), placed), []
    for part in parts:
        state, measured = one(state, part)
        losses.append(float(measured["loss"]))
    several = make_step(_objective, optimizer, placed, mesh, updates=3)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(parts))
    together, means = several(
        jax.device_put(start(), placed), jax.device_put(stacked, split_over(mesh, updates=3))
    )
    np.testing.assert_allclose(together.params["w"], state.params["w"], rtol=1e-6)
    assert float(means["loss"]) == pytest.approx(np.mean(losses), rel=1e-6)
    assert (int(state.step), int(together.step)) == (3, 1)
