"""A case in a worker: value and gradient, again and again for a moment, and the least time that one took."""

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.benchmarks.peers.alone import version
from experiments.benchmarks.peers.timed_arrays import Size, arrays
from experiments.benchmarks.protocol import Task, read_task, serve

MOMENT = 0.05  # seconds
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PACKAGES = {
    "TRL": "trl", "verl": "verl", "OpenRLHF": "openrlhf", "EasyDeL": "easydel", "rlax": "rlax", "torch": "torch",
    "prefjax": "jax",
}  # fmt: skip
Library = Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]


def timed(
    both: Callable[[], Any], value_of: Callable[[Any], float], one_core: bool
) -> Callable[[], dict[str, Any]]:
    """The least wall time of one run; on one core the least CPU time, which other programs do not make longer."""
    clock = time.process_time if one_core else time.perf_counter

    def case() -> dict[str, Any]:
        taken: list[float] = []
        found, begin = None, time.perf_counter()
        while len(taken) < 3 or time.perf_counter() - begin < MOMENT:
            start = clock()
            found = both()
            taken.append(clock() - start)
        return {"seconds": min(taken), "value": value_of(found)}

    return case


def wanted(
    libraries: Mapping[str, Library], only: list[str]
) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """Cases of the libraries that are here, under `LIBRARY: NAME`."""
    return {
        f"{library}: {name}": case for library, cases in libraries.items() if version(PACKAGES[library])
        for name, case in cases.items() if not only or any(word in name for word in only)
    }  # fmt: skip


def settled() -> Task:
    """The task; where it is for one core, on that core, before anybody counts cores to start threads."""
    task = read_task()
    # Freed memory is kept, or what a case costs would depend on how large the buffers of the one before were.
    for setting in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(setting, 2**30)
    if task.options["one_core"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return task


class Asked(dict):
    """Arrays by name, and the names that were asked for."""

    def __init__(self, data: Mapping[str, Any]):
        super().__init__(data)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)


def in_jax(libraries: Mapping[str, Library]) -> None:
    import jax
    import jax.numpy as jnp

    task = settled()
    data = {name: jnp.asarray(array) for name, array in arrays(Size(**task.options["size"])).items()}

    def ready(function: Callable[..., Any], moves: tuple[str, ...]) -> Callable[[], dict[str, Any]]:
        asked = Asked(data)
        jax.eval_shape(lambda: function(asked))
        # Handing over forty arrays, of which three are read, would take longer than some of the losses.
        fixed = {name: data[name] for name in sorted(asked.names - set(moves))}
        moved = {name: data[name] for name in moves}
        if moves:
            program = jax.jit(jax.value_and_grad(lambda moved, fixed: function(fixed | moved)))
        else:
            program = jax.jit(lambda moved, fixed: function(fixed))
        return timed(
            lambda: jax.block_until_ready(program(moved, fixed)),
            lambda found: float(np.mean(found[0] if moves else found)),
            task.options["one_core"],
        )

    serve({name: ready(*case) for name, case in wanted(libraries, task.options["only"]).items()})


def in_torch(libraries: Mapping[str, Library]) -> None:
    import torch

    task = settled()
    if task.options["one_core"]:
        torch.set_num_threads(1)
    data = {name: torch.from_numpy(array) for name, array in arrays(Size(**task.options["size"])).items()}

    def ready(function: Callable[..., Any], moves: tuple[str, ...]) -> Callable[[], dict[str, Any]]:
        moved = [data[name].clone().requires_grad_() for name in moves]
        given = data | dict(zip(moves, moved, strict=True))

        def both() -> Any:
            value = function(given)
            if moves:
                torch.autograd.grad(value, moved)
            return value

        return timed(both, lambda value: value.detach().double().mean().item(), task.options["one_core"])

    serve({name: ready(*case) for name, case in wanted(libraries, task.options["only"]).items()})
