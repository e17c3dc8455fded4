"""A plan counts what a hand counts: FLOPs through loops, collectives and their bytes; validation is one division."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.checks import InputError
from prefjax.train import (
    abstract_state,
    copied,
    devices_of,
    init_state,
    make_measure,
    make_mesh,
    make_plan,
    make_step,
    place,
    split_over,
)
from prefjax.train.plan import count_collectives
from prefjax.types import Weighted, mean_of


def test_flops_of_a_looped_product_and_its_gradient():
    mesh = make_mesh(data=2)
    optimizer = optax.sgd(0.1)

    def objective(params, batch, key):
        hidden, _ = jax.lax.scan(lambda h, _: (h @ params, None), batch, None, length=5)
        return Weighted.of(hidden)

    shapes = jax.eval_shape(lambda: init_state(jnp.ones((8, 8)), optimizer, jax.random.key(0)))
    placed = copied(shapes, mesh)
    batch = jax.ShapeDtypeStruct((1, 4, 8), jnp.float32, sharding=split_over(mesh))
    plan = make_plan(
        make_step(objective, optimizer, placed, mesh), abstract_state(shapes, placed), batch,
        chip="h100", parameters=64, devices=2, frozen=1000,
    )  # fmt: skip
    # Five products of [4, 8] and [8, 8], each with two as large on the way back (into the activations, too).
    assert plan.flops == 3 * 5 * 2 * 4 * 8 * 8
    assert plan.compute_seconds == pytest.approx(plan.flops / 2 / 989e12)
    assert "all-reduce" in plan.collectives  # the gradient, summed over the two devices
    assert plan.state_bytes >= 8 * 8 * 4 + 500
    assert plan.seconds == max(plan.compute_seconds, plan.memory_seconds, plan.network_seconds)


def test_collectives_are_read_from_a_program():
    program = """
      %a = f32[8,16]{1,0} all-reduce(%x), replica_groups={}
      %b = (bf16[4]{0}, bf16[4]{0}) all-gather-start(%y), dimensions={0}
      %c = f32[2]{0} add(%p, %q)
    """
    assert count_collectives(program) == {"all-reduce": (1, 8 * 16 * 4), "all-gather": (1, 2 * 4 * 2)}


def test_an_unknown_chip_is_refused():
    with pytest.raises(InputError, match="--chip"):
        devices_of("abacus", 1)


def test_validation_is_the_mean_over_all_batches():
    mesh = make_mesh(data=2)
    params = {"w": jnp.arange(3.0)}

    def objective(params, batch, key):
        return {"loss": Weighted.of(batch["x"] @ params["w"], batch["weight"])}

    measure = make_measure(objective, copied(params, mesh), mesh)
    rng = np.random.default_rng(0)
    parts = [
        {"x": rng.normal(size=(8, 3)).astype(np.float32), "weight": (np.arange(8) < n).astype(np.float32)}
        for n in (8, 3)
    ]
    sums = [measure(params, place(part, mesh, 2), jax.random.key(0)) for part in parts]
    mean = float(mean_of(jax.tree.map(jnp.add, *sums))["loss"])
    values = [part["x"][:n] @ np.arange(3.0) for part, n in zip(parts, (8, 3), strict=True)]
    assert mean == pytest.approx(np.concatenate(values).mean(), rel=1e-5)
