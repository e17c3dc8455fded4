"""What every loss keeps, in one table: shapes, precision, transformations, meshes."""

import functools
import importlib
import inspect
import math
import pkgutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax import losses
from prefjax.types import Weighted
from tests.losses import rows

SIZES = {"T": 3, "V": 5, "K": 4, "N": 5, "S": 2, "2": 2}
# What has no gradient: labels and masks, and what a policy gradient holds fixed.
CONSTANT = {"mask", "label", "advantage", "behaviour", "preference", "fixed"}
TABLE = {
    name: row
    for file in pkgutil.iter_modules(rows.__path__)
    for name, row in importlib.import_module(f"tests.losses.rows.{file.name}").ROWS.items()
}
ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in TABLE.items()])


def test_the_table_has_every_function_of_the_room():
    in_table = {row.loss.__name__ for row in TABLE.values()} | {
        function.__name__
        for file in pkgutil.iter_modules(rows.__path__)
        for function in getattr(importlib.import_module(f"tests.losses.rows.{file.name}"), "STATISTICS", ())
    }
    assert in_table == {name for name, value in vars(losses).items() if inspect.isfunction(value)}
    # And the room publishes every function that its files do not call their own.
    for file in pkgutil.iter_modules(losses.__path__):
        module = importlib.import_module(f"prefjax.losses.{file.name}")
        own = {
            name
            for name, value in vars(module).items()
            if inspect.isfunction(inspect.unwrap(value)) and value.__module__ == module.__name__
        }
        assert {name for name in own if not name.startswith("_")} <= in_table, module.__name__


def trailing(axes: str) -> tuple[int, ...]:
    return tuple(SIZES[axis] for axis in axes.split())


def shapes(row, batch: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [batch + trailing(tensor.partition(" ")[2]) for tensor in row.tensors]


def kinds(row) -> list[str]:
    return [tensor.partition(" ")[0] for tensor in row.tensors]


def moving(row) -> tuple[int, ...]:
    """The tensors that a gradient is for."""
    return tuple(i for i, kind in enumerate(kinds(row)) if kind not in CONSTANT)


def draw(row, batch, dtype=np.float32):
    random = np.random.default_rng(len(row.tensors))
    make = {
        "logratio": lambda shape: 3 * random.normal(size=shape),
        "score": lambda shape: 2 * random.normal(size=shape),
        "logp": lambda shape: -2 * random.exponential(size=shape),
        "preference": lambda shape: random.uniform(size=shape),
        "label": lambda shape: random.integers(2, size=shape),
        # The first of a trailing axis is always there.
        "mask": lambda shape: (random.uniform(size=shape) < 0.7) | (np.arange(shape[-1]) == 0),
    }
    make |= {"behaviour": make["logp"], "average": make["logp"]}
    make |= {"variance": lambda shape: 0.1 + random.exponential(size=shape)}
    make |= {"threshold": lambda shape: np.cumsum(0.2 + random.exponential(size=shape), axis=-1) - 2}
    make |= {"fixed": make["score"], "advantage": make["score"]}
    drawn = zip(kinds(row), shapes(row, batch), strict=True)
    return tuple(jnp.asarray(make[kind](shape), dtype) for kind, shape in drawn)


def with_settings(row):
    return functools.partial(row.loss, **row.settings)


def close(found, expected, tolerance=1e-6):
    """Relative to the largest: a sum is as exact as its largest term."""
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@ROWS
def test_one_number_an_example_or_token_at_any_batch_shape(row):
    for batch in [(), (5,), (2, 3), (0,)]:
        result = jax.eval_shape(with_settings(row), *draw(row, batch))
        assert (result.shape, result.dtype) == (batch + trailing(row.out), jnp.float32)
    with jax.enable_x64(True):
        assert jax.eval_shape(with_settings(row), *draw(row, (3,), np.float64)).dtype == jnp.float64


@ROWS
def test_examples_do_not_mix(row):
    tensors, wanted = draw(row, (4,)), moving(row)
    jacobians = jax.jit(jax.jacobian(with_settings(row), argnums=wanted))(*tensors)
    for i, jacobian in zip(wanted, jacobians, strict=True):
        blocks = np.asarray(jacobian).reshape(4, -1, 4, tensors[i].size // 4).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(blocks[~np.eye(4, dtype=bool)], 0.0)
        # Some example moves its loss. (A policy gradient may have clipped all but one.)
        assert np.any(blocks[np.eye(4, dtype=bool)] != 0)


@ROWS
def test_gradient_is_that_of_the_value_in_float64(row):
    if row.gradient_met_by:  # on purpose not that of the value: met by enumeration or by hand instead
        file, test = row.gradient_met_by.split("::")
        assert f"def {test}(" in (Path(__file__).parent / file).read_text()
        return
    with jax.enable_x64(True):
        loss, tensors, step = with_settings(row), draw(row, (64,), np.float64), 1e-6
        random = np.random.default_rng(0)
        # Along a random direction, since some functions mix what is on their trailing axes.
        direction = [
            random.normal(size=t.shape) if i in moving(row) else np.zeros(t.shape)
            for i, t in enumerate(tensors)
        ]

        def along(s):
            return loss(*(t + s * d for t, d in zip(tensors, direction, strict=True))).reshape(64, -1).sum(-1)

        @jax.jit
        def all_three():
            gradients = jax.grad(lambda t: loss(*t).sum())(tensors)
            backwards = sum(
                (g * d).reshape(64, -1).sum(-1) for g, d in zip(gradients, direction, strict=True)
            )
            return jax.jvp(along, (0.0,), (1.0,))[1], backwards, (along(step) - along(-step)) / (2 * step)

        forwards, backwards, difference = all_three()
        np.testing.assert_allclose(forwards, difference, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(backwards, forwards, rtol=1e-10, atol=1e-10)


@ROWS
def test_finite_far_out_and_as_steep_as_it_says(row):
    far = [-1e4, -88.0, 0.0, 88.0, 1e4]
    corners = {"average": [-1e4, -88.0, -1.0, -1e-9, 0.0], "advantage": [-2.0, 0.0, 2.0], "label": [0.0, 1.0]}
    corners |= {"mask": [0.0, 1.0], "preference": [0.0, 1.0], "variance": [1e-6, 1.0, 1e4]}
    grid = np.meshgrid(*[corners.get(kind, far) for kind in kinds(row)], indexing="ij")
    tensors = []
    for kind, values, shape in zip(kinds(row), grid, shapes(row, (grid[0].size,)), strict=True):
        # Along trailing axes all kinds of neighbours, by rolling; masks as a whole are once 0, once 1.
        apart = 0 if kind == "mask" else 1
        columns = [np.roll(values.reshape(-1), k * apart) for k in range(math.prod(shape[1:]))]
        laid = np.stack(columns, axis=-1).reshape(shape)
        if kind == "threshold":
            laid = np.sort(laid, axis=-1) + np.arange(shape[-1])
        tensors.append(jnp.asarray(laid, jnp.float32))
    loss = with_settings(row)

    @jax.jit
    def both(*tensors):
        return loss(*tensors), jax.grad(lambda t: loss(*t).sum())(tensors)

    values, gradients = both(*tensors)
    assert np.all(np.isfinite(values))
    for i, (kind, gradient) in enumerate(zip(kinds(row), gradients, strict=True)):
        if i in moving(row):
            assert np.all(np.isfinite(gradient))
            if row.slope is not None:
                assert np.abs(gradient).max() <= row.slope * (1 + 1e-6)
        elif kind not in ("label", "mask"):
            np.testing.assert_array_equal(gradient, 0.0)  # what is held fixed


@ROWS
def test_bfloat16_comes_in_float32_comes_out(row):
    rough = tuple(t.astype(jnp.bfloat16) for t in draw(row, (16,)))
    loss = jax.jit(with_settings(row))
    assert loss(*rough).dtype == jnp.float32
    close(loss(*rough), loss(*(t.astype(jnp.float32) for t in rough)))
    gradients = jax.eval_shape(jax.grad(lambda t: loss(*t).sum()), rough)
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients)


@ROWS
def test_a_sweep_compiles_once_and_vmap_batches_it(row):
    chex.clear_trace_counter()
    loss, tensors = jax.jit(chex.assert_max_traces(row.loss, n=1)), draw(row, (4,))
    settings = {name: value * np.float32([1.0, 0.5, 0.25]) for name, value in row.settings.items()}
    loop = [loss(*tensors, **{name: values[i] for name, values in settings.items()}) for i in range(3)]
    if settings:
        swept = jax.jit(jax.vmap(lambda settings: row.loss(*tensors, **settings)))(settings)
        close(swept, jnp.stack(loop))


@ROWS
def test_vmap_is_the_loop_is_the_batch(row):
    loss, tensors = with_settings(row), draw(row, (6,))
    one = jax.jit(loss)
    loop = jnp.stack([one(*(t[i] for t in tensors)) for i in range(6)])
    close(jax.jit(jax.vmap(loss))(*tensors), loop)
    close(one(*tensors), loop)


@ROWS
def test_eight_devices_say_what_one_says(row):
    loss, tensors = with_settings(row), draw(row, (16,))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")

    @jax.jit
    def both(*tensors):
        return loss(*tensors), jax.grad(lambda t: loss(*t).sum())(tensors)

    alone, gradients = both(*tensors)
    shared, shared_gradients = both(*jax.device_put(tensors, NamedSharding(mesh, split)))
    assert shared.sharding.is_equivalent_to(NamedSharding(mesh, split), alone.ndim)
    close(shared, alone)
    jax.tree.map(close, shared_gradients, gradients)

    per_shard = jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=split, out_specs=split))
    close(per_shard(*tensors), alone)
    over_devices = jax.pmap(loss)(*(t.reshape(8, 2, *t.shape[1:]) for t in tensors))
    close(over_devices.reshape(alone.shape), alone)


AVERAGES = {
    "tokens": Weighted.tokens,
    "sequences": Weighted.sequences,
    "constant": functools.partial(Weighted.constant, length=7),
}
ON_T = {name: row for name, row in TABLE.items() if any("T" in tensor.split()[1:] for tensor in row.tensors)}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ON_T.items()])
def test_padding_microbatches_and_devices_cannot_show(row, average):
    """The loss of a step and its gradient, with sequences of 0 to T tokens, in 1, 4 and 8 parts, however padded."""
    tensors, size = draw(row, (16,)), SIZES["T"]
    mask = (np.arange(size) < np.arange(16)[:, None] % (size + 1)).astype(np.float32)

    def step(moved, parts, extra, place):
        """`extra` places of padding behind each row, all padding filled with what must not matter."""
        moved = dict(zip(moving(row), moved, strict=True))
        seen = jnp.pad(mask, ((0, 0), (0, extra)))
        laid = []
        for i, kind in enumerate(row.tensors):
            t, axes = moved.get(i, tensors[i]), kind.split()[1:]
            if kind == "mask T":
                t = seen
            elif "T" in axes:
                there = seen.reshape(seen.shape + (1,) * (len(axes) - 1))
                wide = jnp.pad(t, [(0, 0), (0, extra)] + [(0, 0)] * (len(axes) - 1))
                t = jnp.where(there > 0, wide, -77.0 - extra)
            laid.append(place(t))
        total = None
        for some in np.split(np.arange(16), parts):
            values, present = with_settings(row)(*(t[some] for t in laid)), seen[some]
            part = (
                AVERAGES[average](values, present)
                if row.out == "T"
                else Weighted.of(values, present.any(axis=-1).astype(jnp.float32))
            )
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return total.mean()

    moved = [tensors[i] for i in moving(row)]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    over_devices = NamedSharding(mesh, PartitionSpec("data"))

    def run(parts, extra, place):
        return jax.jit(jax.value_and_grad(lambda m: step(m, parts, extra, place)))(moved)

    value, gradients = run(1, 0, lambda t: t)
    for parts, extra, place in [
        (4, 3, lambda t: t),
        (1, 5, lambda t: jax.lax.with_sharding_constraint(t, over_devices)),
    ]:
        other, other_gradients = run(parts, extra, place)
        close(other, value)
        jax.tree.map(close, other_gradients, gradients)


def test_a_forgotten_axis_is_refused_by_name_and_never_broadcast():
    # In a process of its own, as users run: without the shape checks that the tests install.
    rows = [
        (row.loss.__name__, shapes(row, (4,)), shapes(row, ()), row.settings, row.each)
        for row in TABLE.values()
        if len(row.tensors) > 1
    ]
    program = """
import inspect
import jax
import jax.numpy as jnp
from prefjax import losses
from prefjax.types import Weighted
from tests.losses import rows

def refused(loss, **arguments):
    for call in (loss, jax.jit(loss)):
        try:
            call(**arguments)
        except ValueError as error:
            assert str(error).startswith(loss.__name__ + ":") and "has shape" in str(error), error
        else:
            raise SystemExit(f"{loss.__name__} let {arguments} pass")

for name, shapes, single, settings, each in ROWS:
    loss = getattr(losses, name)
    names = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    good = {n: jnp.ones(shape) for n, shape in zip(names, shapes, strict=True)}
    jax.eval_shape(loss, **good, **settings)
    jax.eval_shape(loss, **{n: jnp.ones(shape) for n, shape in zip(names, single)}, **settings)
    for n, shape in zip(names, shapes):
        refused(loss, **{**good, n: jnp.ones((4, 1, *shape[1:]))}, **settings)
        refused(loss, **{**good, n: jnp.ones(shape[1:])}, **settings)
    for n in each:
        refused(loss, **good, **{**settings, n: jnp.ones((4, 1))})
print("refused")
"""
    program = f"ROWS = {rows!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stdout + done.stderr
