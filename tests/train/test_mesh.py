"""Meshes: the axes asked for, and an error that says what to change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from prefjax.checks import InputError
from prefjax.train import check_division, make_mesh, parse_mesh, place, spread


def test_axes_and_their_order():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_parse():
    assert parse_mesh("data=4,fsdp=2") == {"data": 4, "fsdp": 2}
    assert parse_mesh("") == {"data": jax.device_count()}


@pytest.mark.parametrize("text", ["data", "rows=2", "data=0", "data=2,data=4", "data=-1", "data=two"])
def test_a_mesh_that_cannot_be_read(text):
    with pytest.raises(InputError, match="--mesh"):
        parse_mesh(text)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match="asks for 64 devices"):
        make_mesh(data=64)


def test_large_arrays_are_cut_and_small_ones_copied():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    tree = {
        "matrix": jnp.zeros((8, 32)),
        "norm": jnp.zeros(32),
        "odd": jnp.zeros((3, 5)),
        "count": jnp.zeros(()),
    }
    specs = jax.tree.map(lambda s: s.spec, spread(tree, mesh))
    assert specs["matrix"] == PartitionSpec("tensor", "fsdp")
    assert specs["norm"] == PartitionSpec(None)
    assert specs["odd"] == PartitionSpec(None, None)
    assert specs["count"] == PartitionSpec()


def test_rows_are_placed_in_order():
    rows = np.arange(16).reshape(16, 1)
    placed = place({"rows": rows}, make_mesh(data=4), 2)["rows"]
    assert placed.shape == (2, 8, 1)
    np.testing.assert_array_equal(np.asarray(placed).reshape(16, 1), rows)


@pytest.mark.parametrize(
    ("batch", "micro", "match"), [(8, 3, "divides"), (8, 2, "multiple of 4"), (0, 1, "divides")]
)
def test_batches_that_do_not_divide(batch, micro, match):
    with pytest.raises(InputError, match=match):
        check_division(batch, micro, make_mesh(data=4))
    assert check_division(8, 4, make_mesh(data=4)) == 2
