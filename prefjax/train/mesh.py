"""Meshes, and where arrays live on them: one program for one core and for a pod."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TypedDict

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from prefjax.checks import refuse, require

AXES = ("data", "fsdp", "tensor")


class MeshAxes(TypedDict, total=False):
    """How many devices along each axis; 1 where an axis is left out."""

    data: int
    fsdp: int
    tensor: int


def make_mesh(
    *, data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh with axes `data`, `fsdp`, `tensor`, in that order.

    Batches are split over `data` and `fsdp`, parameters over `fsdp` and `tensor`. The axes are of type Auto:
    shardings are stated where arrays enter, and the compiler carries them through.

    Args:
      data, fsdp, tensor: how many devices along each axis.
      devices: which; the first `data * fsdp * tensor` of all when not given.

    Raises: InputError when there are fewer devices than asked for.
    """
    shape = (data, fsdp, tensor)
    devices = jax.devices() if devices is None else list(devices)
    wanted = math.prod(shape)
    require(
        min(shape) >= 1 and wanted <= len(devices),
        "mesh",
        f"data={data}, fsdp={fsdp}, tensor={tensor} asks for {wanted} devices",
        f"every axis is at least 1 and this program sees {len(devices)}",
        "Choose smaller axes, or start more devices or processes.",
    )
    # All processes must take part, or those left out would wait for ever.
    require(
        jax.process_count() == 1 or wanted == len(devices),
        "mesh",
        f"{wanted} devices in {jax.process_count()} processes",
        f"with several processes the mesh covers all {len(devices)} devices",
        "Multiply --mesh out to the number of devices.",
    )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:wanted])


def parse_mesh(text: str) -> MeshAxes:
    """`"data=4,fsdp=2"` → `{"data": 4, "fsdp": 2}`; `""` → all devices along `data`."""
    if not text:
        return {"data": jax.device_count()}
    sizes: MeshAxes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdigit() or int(size) < 1 or name in sizes:
            refuse(
                "--mesh", f"{text!r}", f"axes {', '.join(AXES)}, each once, each a positive number",
                "Write for example --mesh data=4,fsdp=2.",
            )  # fmt: skip
        sizes[name] = int(size)  # type: ignore[literal-required]  # it is one of AXES, as was just checked
    return sizes


def devices_in(axes: MeshAxes) -> int:
    """How many devices a mesh of these axes has."""
    return axes.get("data", 1) * axes.get("fsdp", 1) * axes.get("tensor", 1)


def copied(tree: PyTree, mesh: Mesh) -> PyTree:
    """Shardings for `tree`: every device holds all of it."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def spread(tree: PyTree, mesh: Mesh, axes: Mapping[str, tuple[str, str]] | None = None) -> PyTree:
    """Shardings for parameters or optimiser state: each large array is cut over `fsdp` and `tensor`.

    Only the last two axes are cut: those before them are stacks that a loop goes through. Where `axes` names a part
    of the array's path, it says which mesh axis goes where, as {"o_proj": ("fsdp", "tensor")}; optimiser state has
    the paths of its parameters in its own, and is cut like them. Otherwise, or where that does not divide evenly,
    the largest axis that does goes to `fsdp`, the next to `tensor`; an array too small to divide is copied. The
    compiler gathers what a computation needs, so the cut decides memory and traffic, never numbers.
    """

    def divides(leaf, axis: int, name: str) -> bool:
        size = mesh.shape[name]
        return size > 1 and leaf.shape[axis] % size == 0 and leaf.shape[axis] >= 2 * size

    def cut(path, leaf) -> NamedSharding:
        rank = len(leaf.shape)
        spec: list[str | None] = [None] * rank
        if rank >= 2:
            keys = {str(getattr(key, "key", getattr(key, "name", ""))) for key in path}
            named = next((where for name, where in (axes or {}).items() if name in keys), ())
            for axis, name in zip(range(rank - 2, rank), named, strict=False):
                if divides(leaf, axis, name):
                    spec[axis] = name
            for name in ("fsdp", "tensor"):
                free = [i for i in (rank - 2, rank - 1) if spec[i] is None and divides(leaf, i, name)]
                if name not in spec and free:
                    spec[max(free, key=lambda i: leaf.shape[i])] = name
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(cut, tree)


def split_over(mesh: Mesh, updates: int = 1) -> NamedSharding:
    """The sharding of [M, B, ...]: M microbatches one after another, each split over `data` and `fsdp`.

    With several updates a step, of [U, M, B, ...].
    """
    leading = (None,) if updates == 1 else (None, None)
    return NamedSharding(mesh, PartitionSpec(*leading, ("data", "fsdp")))


def place(batch: PyTree, mesh: Mesh, microbatches: int) -> PyTree:
    """Puts this process's rows [b, ...] of a batch on the mesh as [M, B/M, ...].

    Every process passes its own rows, equally many; together they are the B rows of one optimiser step.
    """
    sharding = split_over(mesh)

    def put(leaf):
        leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(
            sharding, leaf.reshape(microbatches, leaf.shape[0] // microbatches, *leaf.shape[1:])
        )

    return jax.tree.map(put, batch)


def check_division(batch_size: int, micro_batch_size: int, mesh: Mesh) -> int:
    """The number of microbatches M, or an error that says which number does not divide which."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    require(
        batch_size >= 1 and micro_batch_size >= 1 and batch_size % micro_batch_size == 0,
        "--batch-size, --micro-batch-size",
        f"{batch_size} and {micro_batch_size}",
        "the micro-batch divides the batch",
        "Change one of the two.",
    )
    require(
        micro_batch_size % devices == 0,
        "--micro-batch-size",
        f"{micro_batch_size} on {devices} devices (data x fsdp)",
        "every device takes equally many rows of a microbatch",
        f"Choose a multiple of {devices}, or a smaller --mesh.",
    )
    return batch_size // micro_batch_size


def start_processes() -> None:
    """Joins the other processes of this run, where the environment says that there are any.

    JAX's own runtime finds SLURM, GKE and Open MPI by itself; by hand set JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call before anything else touches JAX.
    """
    by_hand = os.environ.get("JAX_COORDINATOR_ADDRESS")
    tasks = int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1
    if jax.distributed.is_initialized():
        return
    # It would catch SIGTERM and do nothing with it until the training loop, which asks all processes itself.
    jax.config.update("jax_enable_preemption_service", False)
    if by_hand and "JAX_NUM_PROCESSES" in os.environ:
        jax.distributed.initialize(
            by_hand, int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        )
    elif tasks > 1 or os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        jax.distributed.initialize()
