"""How far two implementations are apart: value and gradient, the worst of many random batches."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = Mapping[str, Any]


class Peer(NamedTuple):
    """What a library makes of a batch, and what is to be said of it.

    Attributes:
      library: the column.
      run: a batch to a number (or an array, of which no gradient is taken), in torch or in JAX arrays.
      framework: "torch", called batch by batch, or "jax", under `vmap`.
      note: what it documents, or does, otherwise than the row; then two more may be given:
      ours: our function under the arguments that reproduce it; None where none does.
      default: the library under its own defaults, where `run` has been given other arguments.
      compiled: False where it cannot be run under `jit`.
    """

    library: str
    run: Callable[[Batch], Any]
    framework: str
    note: str = ""
    ours: Callable[[Batch], Any] | None = None
    default: Callable[[Batch], Any] | None = None
    compiled: bool = True


class Row(NamedTuple):
    """A method: our functions in it, what they make of a batch, who else has it, and in which arrays a gradient is."""

    functions: tuple[Callable[..., Any], ...]
    ours: Callable[[Batch], Any]
    peers: tuple[Peer, ...]
    moves: tuple[str, ...] = ("logps",)


class Result(NamedTuple):
    """For every batch the value, and the gradient (None where there is none to take)."""

    value: np.ndarray
    gradient: np.ndarray | None


class Apart(NamedTuple):
    value: float
    gradient: float | None


def in_jax(
    run: Callable[[Batch], Any], batches: Batch, moves: tuple[str, ...], compiled: bool = True
) -> Result:
    """All batches at once."""
    every = of_every(run, moves)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        batches = {name: jax.numpy.asarray(array) for name, array in batches.items()}
        value, gradient = (jax.jit(every) if compiled else every)(batches)
        return Result(np.asarray(value), _flat(gradient, moves))


def of_every(run: Callable[[Batch], Any], moves: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    """Stacked batches to the values of all and their gradients by name."""

    def one(batch: dict[str, Any]) -> Any:
        if not moves:
            return run(batch), None
        moved = {name: batch[name] for name in moves}
        return jax.value_and_grad(lambda moved: run(batch | moved))(moved)

    return jax.vmap(one)


def in_torch(run: Callable[[Batch], Any], batches: Batch, moves: tuple[str, ...]) -> Result:
    """One batch after another: trainers average over theirs."""
    import torch

    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in batches.items()}
    values: list[np.ndarray] = []
    gradients: dict[str, list[np.ndarray]] = {name: [] for name in moves}
    for i in range(len(tensors["logps"])):
        batch = {name: tensor[i] for name, tensor in tensors.items()}
        moved = [batch[name].clone().requires_grad_() for name in moves]
        value = run(batch | dict(zip(moves, moved, strict=True)))
        values.append(np.asarray(value.detach()))
        if moves:
            for name, gradient in zip(moves, torch.autograd.grad(value, moved), strict=True):
                gradients[name].append(gradient.numpy())
    stacked = {name: np.stack(each) for name, each in gradients.items()}
    return Result(np.stack(values), _flat(stacked, moves))


def _flat(gradient: Mapping[str, Any] | None, moves: tuple[str, ...]) -> np.ndarray | None:
    if not moves or gradient is None:
        return None
    each = [np.asarray(gradient[name]) for name in moves]
    return np.concatenate([array.reshape(len(array), -1) for array in each], axis=1)


def apart(ours: Result, theirs: Result) -> Apart:
    """The largest difference relative to the larger of the number and its root mean square over all batches.

    (A surrogate's value may be near 0 by cancellation.) Of a gradient, or an array: the largest difference in a
    batch over the largest number in it.
    """
    return Apart(
        _worst(_flat_values(ours.value), _flat_values(theirs.value)),
        None if ours.gradient is None or theirs.gradient is None else _worst(ours.gradient, theirs.gradient),
    )


def _flat_values(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


def _worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"ours has shape {ours.shape}, theirs {theirs.shape}")
    typical = math.sqrt(np.mean(theirs**2)) if theirs.shape[1] == 1 else 0.0
    scale = np.maximum(np.max(np.abs(theirs), axis=1), typical)
    difference = np.max(np.abs(ours - theirs), axis=1)
    # nan counts as worst: np.max keeps it.
    return float(np.max(np.where(difference == 0, 0.0, difference / np.where(scale == 0, 1.0, scale))))


def run(peer: Peer, how: Callable[[Batch], Any], batches: Batch, moves: tuple[str, ...]) -> Result:
    if peer.framework == "torch":
        return in_torch(how, batches, moves)
    return in_jax(how, batches, moves, peer.compiled)
