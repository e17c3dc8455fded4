"""What every function of rewards keeps, in one table: shapes, precision, transformations, meshes."""

import functools
import importlib
import inspect
import math
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax import rewards
from tests.rewards import rows

SIZES = {"A": 4, "G": 3, "H": 2, "K": 3, "K+1": 4, "L": 2, "M": 4, "N": 5, "S": 3, "T": 3, "T-1": 2, "V": 5}
SIZES |= {"bins": 3, "3": 3}
# What has no gradient.
CONSTANT = {"mask", "label", "place", "count"}
TABLE = {
    f"{file.name}-{name}": row
    for file in pkgutil.iter_modules(rows.__path__)
    for name, row in importlib.import_module(f"tests.rewards.rows.{file.name}").ROWS.items()
}
# Programs that are run once. The one of `compiled`, which all are compared with, is as users have it.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in TABLE.items()])


def test_the_table_has_every_function_of_the_room():
    in_table = {row.function.__name__ for row in TABLE.values()}
    assert in_table == {name for name, value in vars(rewards).items() if inspect.isfunction(value)}
    # And the room publishes every function that its files do not call their own; two are for files alone.
    for file in pkgutil.iter_modules(rewards.__path__):
        module = importlib.import_module(f"prefjax.rewards.{file.name}")
        own = {
            name
            for name, value in vars(module).items()
            if inspect.isfunction(inspect.unwrap(value)) and value.__module__ == module.__name__
        }
        if file.name not in ("arrays", "ordering"):
            assert {name for name in own if not name.startswith("_")} <= in_table, module.__name__


def trailing(axes: str) -> tuple[int, ...]:
    return tuple(SIZES[axis] for axis in axes.split())


def shapes(row, batch: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [batch + trailing(tensor.partition(" ")[2]) for tensor in row.tensors]


def kinds(row) -> list[str]:
    return [tensor.partition(" ")[0] for tensor in row.tensors]


def draw(row, batch, dtype=np.float32):
    random = np.random.default_rng(len(row.tensors))
    make = {
        "score": lambda shape: 2 * random.normal(size=shape),
        "feature": lambda shape: random.normal(size=shape),
        "logp": lambda shape: -2 * random.exponential(size=shape),
        "probability": lambda shape: random.uniform(size=shape),
        "variance": lambda shape: 0.1 + random.exponential(size=shape),
        "threshold": lambda shape: np.cumsum(0.2 + random.exponential(size=shape), axis=-1) - 2,
        "label": lambda shape: random.integers(2, size=shape),
        "place": lambda shape: random.integers(4, size=shape),
        "count": lambda shape: random.integers(1, 6, size=shape),
        # The first of a trailing axis is always there, and what is there comes first.
        "mask": lambda shape: np.logical_and.accumulate(
            (random.uniform(size=shape) < 0.7) | (np.arange(shape[-1]) == 0), axis=-1
        ),
    }
    drawn = zip(kinds(row), shapes(row, batch), strict=True)
    return tuple(np.asarray(make[kind](shape)).astype(dtype) for kind, shape in drawn)


def plain(row):
    return row.call or row.function


def with_settings(row):
    return functools.partial(plain(row), **row.settings)


def moving(row) -> tuple[int, ...]:
    return tuple(i for i, kind in enumerate(kinds(row)) if kind not in CONSTANT)


@functools.cache
def compiled(name: str):
    """Tensors and settings in, as one program that the tests share."""
    row, traces = TABLE[name], []

    def function(tensors, settings):
        traces.append(name)
        assert len(traces) == 1, f"{name} is traced again for other values of its settings"
        return plain(row)(*tensors, **settings)

    return jax.jit(function)


def whole(row, tensors=None, **settings):
    """Of eight examples."""
    name = next(name for name, other in TABLE.items() if other is row)
    given = {name: np.float32(value) for name, value in (row.settings | settings).items()}
    return compiled(name)(draw(row, (8,)) if tensors is None else tensors, given)


def total(row):
    """A weighted sum of all numbers that come out, an example each, to take a gradient of."""

    def summed(*tensors):
        leaves = jax.tree.leaves(with_settings(row)(*tensors))
        leaves = [leaf.astype(jnp.float64).reshape(len(leaf), -1) for leaf in leaves]
        # Unequal weights, since some functions sum to a constant over their trailing axes.
        return sum(leaf @ jnp.cos(1.0 + jnp.arange(leaf.shape[-1])) for leaf in leaves)

    return summed


def close(found, expected, tolerance=1e-6):
    """Relative to the largest: a sum is as exact as its largest term."""
    found, expected = np.asarray(found), np.asarray(expected)
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    atol = tolerance * max(1.0, float(np.max(finite, initial=0.0)))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=atol)


def all_close(found, expected):
    jax.tree.map(close, found, expected)


@ROWS
def test_any_batch_shape_in_float32_or_wider(row):
    outs = (row.out,) if isinstance(row.out, str) else row.out
    for batch in [(), (5,), (2, 3), (0,)]:
        results = jax.tree.leaves(jax.eval_shape(with_settings(row), *draw(row, batch)))
        assert [r.shape for r in results] == [batch + trailing(out) for out in outs]
        assert {str(r.dtype) for r in results} == {row.dtype}
    if row.dtype == "float32":
        with jax.enable_x64(True):
            results = jax.tree.leaves(jax.eval_shape(with_settings(row), *draw(row, (3,), np.float64)))
            assert {r.dtype for r in results} == {jnp.dtype("float64")}


@ROWS
def test_the_batch_is_vmap_of_one_example(row):
    # Eight times the function of one example, which `vmap` has to trace.
    all_close(whole(row), quickly(jax.vmap(with_settings(row)))(*draw(row, (8,))))


@ROWS
def test_a_gradient_is_that_of_the_value_or_nothing_and_examples_do_not_mix(row):
    with jax.enable_x64(True):
        function, tensors, step = total(row), draw(row, (8,), np.float64), 1e-6
        random = np.random.default_rng(0)
        direction = [
            random.normal(size=t.shape) if i in moving(row) else np.zeros(t.shape)
            for i, t in enumerate(tensors)
        ]

        def along(s, tensors):
            # The eight examples are moved together: one that felt another would differ.
            return function(*(t + s * d for t, d in zip(tensors, direction, strict=True)))

        @quickly
        def both(tensors):
            gradients = jax.grad(lambda t: function(*t).sum())(tensors)
            backwards = sum((g * d).reshape(8, -1).sum(-1) for g, d in zip(gradients, direction, strict=True))
            return backwards, (along(step, tensors) - along(-step, tensors)) / (2 * step)

        backwards, difference = both(tensors)
        there = np.isfinite(difference)
        assert there.any()
        if row.gradient:
            np.testing.assert_allclose(backwards[there], difference[there], rtol=1e-6, atol=1e-6)
            assert np.any(np.abs(backwards) > 0)
        else:
            np.testing.assert_array_equal(backwards, 0.0)


@ROWS
def test_finite_far_out(row):
    far = [-1e4, -88.0, 0.0, 88.0, 1e4]
    corners = {
        "probability": [0.0, 0.5, 1.0],
        "mask": [0.0, 1.0],
        "label": [0.0, 1.0],
        "count": [0.0, 1.0, 1e4],
    }
    corners |= {"variance": [1e-6, 1.0, 1e4], "logp": [-1e4, -1.0, 0.0], "place": [0.0, 2.0, 7.0]}
    corners |= {"feature": [-1.0, 0.0, 1.0]}
    if len(row.tensors) > 4:
        corners |= {"score": [-1e4, 0.0, 1e4]}
    values = [corners.get(kind, far) for kind in kinds(row)]
    size = min(math.prod(map(len, values)), 512)
    random, tensors = np.random.default_rng(0), []
    for kind, some, shape in zip(kinds(row), values, shapes(row, (size,)), strict=True):
        laid = random.choice(some, size=shape)
        if kind == "threshold":
            laid = np.sort(laid, axis=-1) + np.arange(shape[-1])
        tensors.append(laid.astype(np.float32))

    def of_what_is_there(tensors):
        results = jax.tree.leaves(with_settings(row)(*tensors))
        return sum(jnp.where(jnp.isfinite(r), r, 0.0).sum() for r in results), results

    gradients, results = quickly(jax.grad(of_what_is_there, has_aux=True))(tensors)
    if not row.absent:
        assert all(np.all(np.isfinite(leaf)) for leaf in results)
    if row.dtype == "float32" and not row.absent:
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


@ROWS
def test_bfloat16_comes_in_float32_comes_out(row):
    rough = draw(row, (8,), jnp.bfloat16)
    found = quickly(with_settings(row))(*rough)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {row.dtype}
    all_close(found, whole(row, tuple(t.astype(np.float32) for t in rough)))


@ROWS
def test_a_sweep_compiles_once_and_vmap_batches_it(row):
    settings = {name: value * np.float32([1.0, 0.5, 0.25]) for name, value in row.settings.items()}
    loop = [whole(row, **{name: values[i] for name, values in settings.items()}) for i in range(3)]
    if settings:
        each = jax.vmap(lambda tensors, settings: plain(row)(*tensors, **settings), in_axes=(None, 0))
        swept = quickly(each)(draw(row, (8,)), settings)
        all_close(swept, jax.tree.map(lambda *x: np.stack(x), *loop))
    for name in row.each:
        repeated = {**row.settings, name: np.full(8, row.settings[name], np.float32)}
        all_close(quickly(plain(row))(*draw(row, (8,)), **repeated), loop[0])


@ROWS
def test_eight_devices_say_what_one_says(row):
    function, tensors = with_settings(row), draw(row, (8,))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    all_close(quickly(function)(*jax.device_put(tensors, NamedSharding(mesh, split))), whole(row))
    per_shard = quickly(jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split))
    all_close(per_shard(*tensors), whole(row))


def test_a_forgotten_axis_is_refused_by_name_and_never_broadcast():
    # In a process of its own, as users run: without the shape checks that the tests install.
    table = [
        (name, row.function.__name__, shapes(row, (4,)), row.settings, row.each)
        for name, row in TABLE.items()
        if row.function.__name__ != "merged_running_rewards" and (len(row.tensors) > 1 or row.each)
    ]
    program = """
import inspect
import jax
import jax.numpy as jnp
from prefjax import rewards

def refused(function, **arguments):
    for call in (function, jax.jit(function)):
        try:
            call(**arguments)
        except ValueError as error:
            assert str(error).startswith(function.__name__ + ":") and "has shape" in str(error), error
        else:
            raise SystemExit(f"{function.__name__} let {jax.tree.map(jnp.shape, arguments)} pass")

for name, function, shapes, settings, each in ROWS:
    function = getattr(rewards, function)
    if function is rewards.relative_rewards:
        def relative_rewards(rewards_, references):
            return rewards.relative_rewards(rewards_, references, shape=jnp.tanh)
        function = relative_rewards
    names = list(inspect.signature(function).parameters)[: len(shapes)]
    good = {n: jnp.ones(shape) for n, shape in zip(names, shapes, strict=True)}
    jax.eval_shape(function, **good, **settings)
    if len(shapes) > 1:
        for n, shape in zip(names, shapes):
            refused(function, **{**good, n: jnp.ones((4, 1, *shape[1:]))}, **settings)
            refused(function, **{**good, n: jnp.ones(shape[1:])}, **settings)
    for n in each:
        refused(function, **good, **{**settings, n: jnp.ones((4, 1))})
print("refused")
"""
    program = f"ROWS = {table!r}\n{program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stdout + done.stderr
