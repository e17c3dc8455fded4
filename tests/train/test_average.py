"""The average of the parameters against its sum, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.checks import InputError
from prefjax.train import Checkpoints, abstract_state, copied, init_state, make_mesh, make_step
from prefjax.train.average import AverageState, averaged_params, warmed_up, with_average
from prefjax.types import Weighted


def taken(optimizer, params, grads):
    """The parameters after every step, and the last state."""
    state, path = optimizer.init(params), [params]
    for grad in grads:
        updates, state = optimizer.update(grad, state, path[-1])
        path.append(optax.apply_updates(path[-1], updates))
    return path, state


def test_known_answer():
    # θ: 1, 0.5, 0, -0.5; with d = 0.8: 0.512·1 + 0.128·0.5 + 0.16·0 + 0.2·(-0.5)
    optimizer = with_average(optax.sgd(0.5), 0.8)
    path, state = taken(optimizer, {"w": jnp.array([1.0])}, [{"w": jnp.array([1.0])}] * 3)
    np.testing.assert_allclose(path[-1]["w"], [-0.5])
    np.testing.assert_allclose(averaged_params(state)["w"], [0.476], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.9, warmed_up(0.5)])
def test_recursion_in_float64_and_updates_untouched(decay):
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(2)}
    grads = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params) for _ in range(12)
    ]
    path, state = taken(with_average(optax.adam(0.1), decay), params, grads)
    plain, _ = taken(optax.adam(0.1), params, grads)
    average = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for t, theta in enumerate(path[1:]):
        d = min(0.5, (1 + t) / (10 + t)) if callable(decay) else decay
        average = jax.tree.map(lambda a, p, d=d: d * a + (1 - d) * np.asarray(p, np.float64), average, theta)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-6), averaged_params(state), average
    )
    jax.tree.map(np.testing.assert_array_equal, path[-1], plain[-1])


def test_the_start_is_forgotten_when_warmed_up():
    # 9! 10! / 19! is what is left of θ₀ after 10 updates.
    _, state = taken(
        with_average(optax.sgd(1.0), warmed_up(0.999)),
        {"w": jnp.ones(1)},
        [{"w": jnp.ones(1)}, *[{"w": jnp.zeros(1)}] * 9],
    )
    assert float(averaged_params(state)["w"][0]) == pytest.approx(1 / 92378, rel=1e-3)


def test_float32_over_bfloat16_parameters():
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    _, state = taken(with_average(optax.sgd(2.0**-7), 0.75), params, [{"w": jnp.ones(4, jnp.bfloat16)}])
    average = averaged_params(state)["w"]
    assert average.dtype == jnp.float32
    np.testing.assert_array_equal(average, np.full(4, 1 - 2.0**-9, np.float32))  # bfloat16 has no such number


def test_off_is_the_optimiser_itself():
    optimizer = optax.adam(0.1)
    assert with_average(optimizer, 0.0) is optimizer
    with pytest.raises(InputError, match=r"0 averages.*--ema-decay"):
        averaged_params(optimizer.init({"w": jnp.ones(1)}))
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="--ema-decay"):
            with_average(optimizer, decay)


def test_found_within_a_chain():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), with_average(optax.sgd(0.1), 0.5))
    params = {"w": jnp.ones(2)}
    np.testing.assert_array_equal(averaged_params(optimizer.init(params))["w"], params["w"])


def objective(params, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)
    return Weighted.of(jnp.square((batch["x"] + noise) @ params["w"]).sum(-1))


def test_a_step_donates_it_and_a_checkpoint_gives_it_back(tmp_path):
    optimizer = with_average(optax.adam(1e-2), warmed_up(0.99))
    mesh = make_mesh(data=2)
    state = init_state({"w": jnp.ones((4, 4))}, optimizer, jax.random.key(0))
    placed = copied(state, mesh)
    step = make_step(objective, optimizer, placed, mesh)
    batch = {"x": jnp.arange(32.0).reshape(1, 8, 4)}
    checkpoints = Checkpoints(tmp_path, identity={})
    state = jax.jit(lambda s: s, out_shardings=placed)(state)
    for number in range(6):
        if number == 3:
            checkpoints.save(state, {})
        state, _ = step(state, batch)
    resumed, _ = checkpoints.restore(abstract_state(state, placed))
    checkpoints.close()
    assert isinstance(resumed.opt_state, AverageState)
    for _ in range(3):
        resumed, _ = step(resumed, batch)
    jax.tree.map(
        np.testing.assert_array_equal, averaged_params(resumed.opt_state), averaged_params(state.opt_state)
    )
    assert not np.array_equal(averaged_params(state.opt_state)["w"], state.params["w"])
