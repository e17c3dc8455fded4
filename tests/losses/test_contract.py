"""What every loss keeps, in one table: shapes, precision, transformations, meshes."""

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax import losses


class Row(NamedTuple):
    """A loss, what each of its tensors looks like, and settings, each of which can be swept."""

    loss: Callable
    tensors: tuple[str, ...]
    settings: dict[str, float]
    # The largest |dloss/dtensor|; None where the slope grows with the input.
    slope: float | None
    # False where the gradient is on purpose not that of the value.
    differentiable: bool = True
    trailing: tuple[int, ...] = ()


PAIR = ("logratio", "logratio")
TABLE = {
    "dpo": Row(losses.dpo_loss, PAIR, {"beta": 0.3}, 0.3),
    "cdpo": Row(losses.dpo_loss, PAIR, {"beta": 0.3, "label_smoothing": 0.1}, 0.3),
    "ipo": Row(losses.ipo_loss, PAIR, {"beta": 0.3}, None),
    "hinge": Row(losses.hinge_loss, PAIR, {"beta": 0.3}, 0.3),
    "robust": Row(losses.robust_dpo_loss, PAIR, {"beta": 0.3, "label_smoothing": 0.1}, 0.3 * 0.9 / 0.8),
    "apo_zero": Row(losses.apo_zero_loss, PAIR, {"beta": 0.3}, 0.3 / 4),
    "sppo_hard": Row(losses.sppo_hard_loss, PAIR, {"beta": 0.3}, None),
    "bradley_terry": Row(
        losses.bradley_terry_loss, ("score", "score"), {"margin": 0.5, "label_smoothing": 0.1}, 1.0
    ),
    "preference_model": Row(losses.preference_model_loss, ("score", "score"), {"target": 0.8}, 0.5),
    "nll": Row(losses.nll_loss, ("logp",), {}, 1.0, trailing=(3,)),
    "nash_md": Row(losses.nash_md_loss, ("logp", "logp", "probability"), {"beta": 0.3}, None, False),
}
ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in TABLE.items()])


def test_the_table_has_every_published_loss():
    published = {name for name in dir(losses) if name.endswith("_loss")}
    assert published == {row.loss.__name__ for row in TABLE.values()}


def draw(row, shape, dtype=jnp.float32):
    shape = shape + row.trailing
    make = {
        "logratio": lambda key: 3 * jax.random.normal(key, shape, dtype),
        "score": lambda key: 2 * jax.random.normal(key, shape, dtype),
        "logp": lambda key: -jax.random.exponential(key, shape, dtype) * 5,
        "probability": lambda key: jax.random.uniform(key, shape, dtype),
    }
    keys = jax.random.split(jax.random.key(len(row.tensors)), len(row.tensors))
    return tuple(make[kind](key) for kind, key in zip(row.tensors, keys, strict=True))


def with_settings(row):
    return functools.partial(row.loss, **row.settings)


@ROWS
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
def test_one_number_an_example_or_token_at_any_batch_shape(row, shape):
    chex.assert_shape(with_settings(row)(*draw(row, shape)), shape + row.trailing)


@ROWS
def test_examples_do_not_mix(row):
    tensors = draw(row, (4,))
    jacobian = jax.jacobian(with_settings(row))(*tensors)
    jacobian = jacobian.reshape(tensors[0].size, tensors[0].size)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))
    assert np.all(np.diag(jacobian) != 0)


@ROWS
def test_gradient_is_that_of_the_value_in_float64(row):
    if not row.differentiable:  # met by enumeration instead, in test_nash.py
        assert row.loss is losses.nash_md_loss
        return
    with jax.enable_x64(True):
        loss, tensors, step = with_settings(row), draw(row, (64,), jnp.float64), 1e-5
        every = tuple(range(len(tensors)))
        gradients = jax.grad(lambda *t: loss(*t).sum(), argnums=every)(*tensors)
        for i in every:
            up, down = (loss(*tensors[:i], tensors[i] + s, *tensors[i + 1 :]) for s in (step, -step))
            np.testing.assert_allclose(gradients[i], (up - down) / (2 * step), rtol=1e-7, atol=1e-8)


@ROWS
def test_finite_far_out_and_as_steep_as_it_says(row):
    corners = jnp.array(np.meshgrid(*[[-1e4, -88.0, 0.0, 88.0, 1e4]] * len(row.tensors)), jnp.float32)
    tensors = corners.reshape(len(row.tensors), -1)
    loss = with_settings(row)
    gradients = jax.grad(lambda t: loss(*t).sum())(tensors)
    assert np.all(np.isfinite(loss(*tensors)))
    assert np.all(np.isfinite(gradients))
    if row.slope is not None:
        assert np.abs(gradients).max() <= row.slope * (1 + 1e-6)


@ROWS
def test_bfloat16_comes_in_float32_comes_out(row):
    rough = tuple(t.astype(jnp.bfloat16) for t in draw(row, (16,)))
    loss = with_settings(row)
    assert loss(*rough).dtype == jnp.float32
    np.testing.assert_array_equal(loss(*rough), loss(*(t.astype(jnp.float32) for t in rough)))
    gradients = jax.grad(lambda t: loss(*t).sum())(rough)
    assert all(g.dtype == jnp.bfloat16 and np.all(np.isfinite(g.astype(jnp.float32))) for g in gradients)


@ROWS
def test_float64_stays(row):
    with jax.enable_x64(True):
        assert with_settings(row)(*draw(row, (3,), jnp.float64)).dtype == jnp.float64


@ROWS
def test_a_sweep_compiles_once(row):
    chex.clear_trace_counter()
    loss = jax.jit(chex.assert_max_traces(row.loss, n=1))
    tensors = draw(row, (4,))
    for factor in (1.0, 0.5, 0.25):
        settings = {name: value * factor for name, value in row.settings.items()}
        np.testing.assert_allclose(
            loss(*tensors, **settings), row.loss(*tensors, **settings), rtol=1e-5, atol=1e-6
        )


@ROWS
def test_vmap_is_the_loop_is_the_batch(row):
    loss, tensors = with_settings(row), draw(row, (6,))
    loop = jnp.stack([loss(*(t[i] for t in tensors)) for i in range(6)])
    np.testing.assert_allclose(jax.vmap(loss)(*tensors), loop, rtol=1e-6)
    np.testing.assert_allclose(loss(*tensors), loop, rtol=1e-6)


@ROWS
def test_settings_can_be_batched_by_vmap(row):
    tensors = draw(row, (4,))
    for name, value in row.settings.items():
        rest = {other: v for other, v in row.settings.items() if other != name}
        values = value * jnp.float32([1.0, 0.5, 0.25])
        swept = jax.vmap(lambda v, name=name, rest=rest: row.loss(*tensors, **{name: v}, **rest))(values)
        loop = jnp.stack([row.loss(*tensors, **{name: v}, **rest) for v in values])
        np.testing.assert_allclose(swept, loop, rtol=1e-6, atol=1e-6)


@ROWS
def test_eight_devices_say_what_one_says(row):
    loss, tensors = with_settings(row), draw(row, (16,))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")

    def total(*tensors):
        return loss(*tensors).sum()

    alone, gradient = loss(*tensors), jax.grad(total)(*tensors)
    placed = jax.device_put(tensors, NamedSharding(mesh, split))
    shared = jax.jit(loss)(*placed)
    assert shared.sharding.is_equivalent_to(NamedSharding(mesh, split), alone.ndim)
    np.testing.assert_allclose(shared, alone, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(*placed), gradient, rtol=1e-6, atol=1e-6)

    per_shard = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=split, out_specs=split))
    np.testing.assert_allclose(per_shard(*tensors), alone, rtol=1e-6, atol=1e-6)

    over_devices = jax.pmap(loss)(*(t.reshape(8, 2, *t.shape[1:]) for t in tensors))
    np.testing.assert_allclose(over_devices.reshape(alone.shape), alone, rtol=1e-6, atol=1e-6)


def test_a_forgotten_axis_is_refused_by_name_and_never_broadcast():
    # In a process of its own, as users run: without the shape checks that the tests install.
    program = """
import inspect
import jax
import jax.numpy as jnp
from prefjax import losses

for name in sorted(n for n in dir(losses) if n.endswith("_loss") and n != "nll_loss"):
    loss = getattr(losses, name)
    parameters = inspect.signature(loss).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = {p.name: 0.1 for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    optional = [p.name for p in parameters if p.name in ("margin", "target")]
    good = dict.fromkeys(names, jnp.ones(4))
    loss(**good, **needed)
    loss(**dict.fromkeys(names, 1.0), **needed)
    for wrong in names + optional:
        for call in (loss, jax.jit(loss)):
            try:
                call(**{**good, wrong: jnp.ones((4, 1))}, **needed)
            except ValueError as error:
                assert str(error).startswith(name + ":") and f"{wrong} has shape (4, 1)" in str(error), error
            else:
                raise SystemExit(f"{name} let {wrong} of shape (4, 1) pass")
print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
