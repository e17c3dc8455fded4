"""Meshes: the axes asked for, and an error that says what to change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from prefjax.checks import InputError
from prefjax.policy import PARTITION
from prefjax.train import check_division, make_mesh, parse_mesh, place, split_over, spread


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


def test_stacks_are_cut_inside_and_names_decide_which_way():
    """Blocks are looped over, so never cut apart; the first product of a pair by what it makes, the second by what it
    reads; and the optimiser's state like its parameters."""
    mesh = make_mesh(fsdp=2, tensor=2)
    tree = {
        "q_proj": {"weight": jnp.zeros((4, 16, 8))},
        "o_proj": {"weight": jnp.zeros((4, 8, 16))},
        "other": {"weight": jnp.zeros((4, 16, 8))},
        "norm": {"weight": jnp.zeros((4, 8))},
        "lora": {"q_proj": {"lora_A": {"weight": jnp.zeros((4, 2, 8))}}},
    }
    specs = jax.tree.map(lambda s: s.spec, spread(tree, mesh, PARTITION))
    assert specs["q_proj"]["weight"] == PartitionSpec(None, "tensor", "fsdp")
    assert specs["o_proj"]["weight"] == PartitionSpec(None, "fsdp", "tensor")
    assert specs["other"]["weight"] == PartitionSpec(None, "fsdp", "tensor")  # the largest to fsdp
    # A rank of 2 is not halved, so the other axis goes to one of the two.
    assert specs["lora"]["q_proj"]["lora_A"]["weight"] == PartitionSpec(None, None, "fsdp")
    state = optax.adam(0.1).init(tree)
    cut = spread(state, mesh, PARTITION)
    assert jax.tree.leaves(cut[0].mu) == jax.tree.leaves(spread(tree, mesh, PARTITION))


def test_what_does_not_divide_one_way_is_cut_the_other():
    mesh = make_mesh(fsdp=2, tensor=4)
    spec = spread({"embed_tokens": {"weight": jnp.zeros((9, 16))}}, mesh, PARTITION)["embed_tokens"]["weight"]
    assert spec.spec == PartitionSpec(None, "fsdp")
    spec = spread({"k_proj": {"weight": jnp.zeros((3, 4, 32))}}, mesh, PARTITION)["k_proj"]["weight"]
    assert spec.spec == PartitionSpec(None, None, "fsdp")  # four heads' worth on four devices is not worth it


def test_rows_of_updates_are_split_after_two_axes():
    mesh = make_mesh(data=2, fsdp=2)
    assert split_over(mesh).spec == PartitionSpec(None, ("data", "fsdp"))
    assert split_over(mesh, updates=3).spec == PartitionSpec(None, None, ("data", "fsdp"))
