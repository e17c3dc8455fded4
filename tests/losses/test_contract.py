"""What every loss keeps, in one table: shapes, precision, transformations, meshes."""

import functools
import importlib
import inspect
import math
import pkgutil
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
    """A function of the room, what each of its tensors looks like, and settings, each of which can be swept."""

    loss: Callable
    # For each tensor what kind of number it holds, then its trailing axes: "logp T" is [*batch, T].
    tensors: tuple[str, ...]
    settings: dict[str, float]
    # The largest |dloss/dtensor|; None where the slope grows with the input.
    slope: float | None
    # The trailing axes of the result.
    out: str = ""
    # False where the gradient is on purpose not that of the value.
    differentiable: bool = True
    # Names of settings that may also be an array, one a example.
    each: tuple[str, ...] = ()


SIZES = {"T": 3, "V": 5, "K": 4, "N": 5, "S": 2, "2": 2}
# What has no gradient: labels and masks, and what a policy gradient holds fixed.
CONSTANT = {"mask", "label", "advantage", "behaviour", "preference", "fixed"}
PAIR = ("logratio", "logratio")
BETA = {"beta": 0.3}
SMOOTH = {"beta": 0.3, "label_smoothing": 0.1}
ON_TOKENS = ("logp T", "behaviour T", "advantage T")
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.3}
TABLE = {
    "dpo": Row(losses.dpo_loss, PAIR, BETA, 0.3),
    "cdpo": Row(losses.dpo_loss, PAIR, SMOOTH, 0.3),
    "ipo": Row(losses.ipo_loss, PAIR, BETA, None),
    "hinge": Row(losses.hinge_loss, PAIR, BETA, 0.3),
    "robust": Row(losses.robust_dpo_loss, PAIR, SMOOTH, 0.3 * 0.9 / 0.8),
    # |q(1 - q)(z - c)| is at most 0.224 + c/4.
    "exo_pair": Row(losses.exo_pair_loss, PAIR, SMOOTH, 0.3 * (0.224 + math.log(9) / 4)),
    # A scan of z finds slopes from -1, where the pair is badly wrong, to 0.82 before the hump.
    "discopop": Row(losses.discopop_loss, PAIR, {"beta": 0.3, "temperature": 0.05}, 0.3),
    "apo_zero": Row(losses.apo_zero_loss, PAIR, BETA, 0.3 / 4),
    "apo_down": Row(losses.apo_down_loss, PAIR, BETA, 0.3 / 2),
    "nca_pair": Row(losses.nca_pair_loss, PAIR, BETA, 0.3),
    "bco_pair": Row(losses.bco_pair_loss, PAIR, {"beta": 0.3, "shift": 0.2}, 0.3),
    "sppo_hard": Row(losses.sppo_hard_loss, PAIR, BETA, None),
    "aot": Row(losses.aot_loss, ("logp N",) * 4 + ("mask N",), SMOOTH, 0.3, "N"),
    "aot_unpaired": Row(losses.aot_unpaired_loss, ("logratio N", "logratio N", "mask N"), SMOOTH, 0.3, "N"),
    "cpo": Row(losses.cpo_loss, ("logp", "logp"), SMOOTH, 0.3),
    "simpo": Row(losses.simpo_loss, ("average", "average"), {**SMOOTH, "gamma": 0.5}, 0.3),
    # d log odds/da is 1/(1 - p), at most 1/eps.
    "odds_ratio": Row(losses.odds_ratio_loss, ("average", "average"), {}, None),
    "orpo": Row(losses.orpo_loss, ("average", "average"), BETA, None),
    "kto": Row(
        losses.kto_loss,
        ("logratio", "label"),
        {"beta": 0.3, "kl": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.8},
        1.2 * 0.3 / 4,
    ),
    "bco": Row(losses.bco_loss, ("logratio", "label"), {"beta": 0.3, "shift": 0.2}, 0.3),
    "xpo": Row(losses.xpo_loss, (*PAIR, "logp"), {"beta": 0.3, "alpha": 0.01}, 0.3),
    "xpo_term": Row(losses.xpo_term, ("logp",), {"alpha": 0.01}, 0.01),
    "vpo_term": Row(losses.vpo_term, ("logratio",), {"beta": 0.3, "alpha": 0.1}, 0.03),
    "bradley_terry": Row(
        losses.bradley_terry_loss,
        ("score", "score"),
        {"margin": 0.5, "label_smoothing": 0.1},
        1.0,
        each=("margin",),
    ),
    "preference_model": Row(
        losses.preference_model_loss, ("score", "score"), {"target": 0.8}, 0.5, each=("target",)
    ),
    "plackett_luce": Row(losses.plackett_luce_loss, ("score K", "mask K"), {}, 3.0),
    "process_reward": Row(losses.process_reward_loss, ("score S", "label S"), {}, 1.0, "S"),
    "two_class_process_reward": Row(
        losses.two_class_process_reward_loss, ("score S 2", "label S"), {}, 1.0, "S"
    ),
    "nll": Row(losses.nll_loss, ("logp T",), {}, 1.0, "T"),
    "nash_md": Row(losses.nash_md_loss, ("logp", "fixed", "preference"), BETA, None, differentiable=False),
    "reinforce": Row(losses.reinforce_loss, ("logp T", "advantage T"), {}, None, "T"),
    "ppo_clip": Row(losses.ppo_clip_loss, ON_TOKENS, CLIP, None, "T"),
    "dual clip": Row(losses.ppo_clip_loss, ON_TOKENS, {**CLIP, "max_ratio": 3.0}, None, "T"),
    "cispo": Row(
        losses.cispo_loss, ON_TOKENS, {"max_ratio": 1.3, "min_ratio": 0.8}, None, "T", differentiable=False
    ),
    "gspo": Row(losses.gspo_loss, ("logp T", "behaviour T", "advantage", "mask T"), CLIP, None),
    "gspo_token": Row(losses.gspo_token_loss, (*ON_TOKENS, "mask T"), CLIP, None, "T", differentiable=False),
    "value": Row(losses.value_loss, ("score T", "fixed T", "fixed T"), {"epsilon": 0.5}, None, "T"),
    "value, no clip": Row(losses.value_loss, ("score T", "fixed T", "fixed T"), {}, None, "T"),
    "kl_k1": Row(losses.kl_k1, ("logp T", "logp T"), {}, 1.0, "T"),
    "kl_k2": Row(losses.kl_k2, ("logp T", "logp T"), {}, None, "T"),
    "kl_k3": Row(losses.kl_k3, ("logp T", "logp T"), {}, None, "T"),
    "kl_penalty": Row(losses.kl_penalty, ("logp T", "behaviour T", "logp T"), {}, None, "T"),
    "kl_exact": Row(losses.kl_exact, ("score V", "score V"), {}, None),
    "entropy": Row(losses.entropy, ("score V",), {}, None),
}
ROWS = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in TABLE.items()])


def test_the_table_has_every_function_of_the_room():
    in_table = {row.loss.__name__ for row in TABLE.values()}
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
    if not row.differentiable:  # met by enumeration or by hand instead
        assert row.loss in (losses.nash_md_loss, losses.cispo_loss, losses.gspo_token_loss)
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
    corners |= {"mask": [0.0, 1.0], "preference": [0.0, 1.0]}
    grid = np.meshgrid(*[corners.get(kind, far) for kind in kinds(row)], indexing="ij")
    tensors = []
    for kind, values, shape in zip(kinds(row), grid, shapes(row, (grid[0].size,)), strict=True):
        # Along trailing axes all kinds of neighbours, by rolling; masks as a whole are once 0, once 1.
        apart = 0 if kind == "mask" else 1
        columns = [np.roll(values.reshape(-1), k * apart) for k in range(math.prod(shape[1:]))]
        tensors.append(jnp.asarray(np.stack(columns, axis=-1).reshape(shape), jnp.float32))
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
