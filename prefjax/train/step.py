"""One optimiser step. Written for one device; the mesh decides how many carry it out."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from prefjax.train.mesh import split_over
from prefjax.types import Weighted, mean_of


class TrainState(NamedTuple):
    """Everything a step reads and writes; a run is this and a data cursor."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree
    key: Key[Array, ""]


def init_state(params: PyTree, optimizer: optax.GradientTransformation, key: Key[Array, ""]) -> TrainState:
    """The state before the first step. Under `jit` with `out_shardings` it is born where it will live."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def step_key(state: TrainState) -> Key[Array, ""]:
    """Keys are named by step, so a run resumed at step k draws what it would have drawn."""
    return jax.random.fold_in(state.key, state.step)


def _in_order(summed):
    # An OrderedDict keeps the order in which the objective computed its terms, also through jit; a dict sorts.
    return summed if isinstance(summed, Weighted) else OrderedDict(summed)


def _loss(summed) -> Weighted:
    return summed if isinstance(summed, Weighted) else summed["loss"]


def _joined(join: Callable | None, params: PyTree, fixed: tuple) -> PyTree:
    return params if join is None else join(params, *fixed)


def make_step(
    objective: Callable,
    optimizer: optax.GradientTransformation,
    placed: TrainState,
    mesh: Mesh,
    *,
    join: Callable | None = None,
    updates: int = 1,
):
    """Compiles `state, batch -> state, loss` from `objective(params, microbatch, key) -> Weighted`.

    An objective may return a dict of `Weighted` instead, whose "loss" is minimised; then the step returns the
    dict of means, in the order of computation, with "grad_norm" (before clipping) and "update_norm" (of what was
    added to the parameters) at the end: finite numbers there mean that the new state is finite.

    Args:
      placed: a state of shardings: where each array lives. Leaves of `batch` are [M, B, ...]:
        M microbatches, one after another, each split over devices.
      join: `params, fixed -> what the objective sees`, and the step takes `fixed` as a third argument: parameters
        that no gradient is taken of and no optimiser state exists for, as the base under an adapter.
      updates: U > 1 takes U updates, one after another, on leaves [U, M, B, ...]: the epochs and minibatches that
        PPO makes of one rollout. The step counts once, and its metrics are means over the updates.
    """

    def update(state: TrainState, batch: PyTree, fixed: tuple, key: Key[Array, ""]):
        def gradient(microbatch, index):
            def total(params):
                summed = objective(_joined(join, params, fixed), microbatch, jax.random.fold_in(key, index))
                return _loss(summed).total, _in_order(summed)

            return jax.grad(total, has_aux=True)(state.params)

        def accumulate(so_far, microbatch_and_index):
            return jax.tree.map(jnp.add, so_far, gradient(*microbatch_and_index)), None

        indices = jnp.arange(jax.tree.leaves(batch)[0].shape[0])
        first = jax.tree.map(lambda leaf: leaf[0], batch), indices[0]
        if len(indices) == 1:
            grads, summed = gradient(*first)
        else:
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient, *first))
            (grads, summed), _ = jax.lax.scan(accumulate, nothing, (batch, indices))

        # The one division, after everything is summed: how the batch was cut cannot show. Of nothing at all, as
        # where no completion was good enough to be imitated, the gradient is 0.
        weight = _loss(summed).weight
        grads = jax.tree.map(lambda g: g / jnp.where(weight == 0, 1.0, weight), grads)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        measured = mean_of(summed)
        if not isinstance(summed, Weighted):
            norms = {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(changes)}
            measured = OrderedDict(measured, **norms)
        return state._replace(params=params, opt_state=opt_state), measured

    def step(state: TrainState, batch: PyTree, *fixed: PyTree):
        key = step_key(state)
        if updates == 1:
            state, measured = update(state, batch, fixed, key)
        else:
            keys = jax.random.split(key, updates)
            state, each = jax.lax.scan(lambda s, x: update(s, x[0], fixed, x[1]), state, (batch, keys))
            measured = jax.tree.map(lambda values: jnp.mean(values, axis=0), each)
        return state._replace(step=state.step + 1), measured

    own = (placed, split_over(mesh, updates), *([] if join is None else [None]))
    return jax.jit(step, in_shardings=own, out_shardings=(placed, None), donate_argnums=0)


def make_measure(objective: Callable, placed_params: PyTree, mesh: Mesh, *, join: Callable | None = None):
    """Compiles `params, batch, key -> dict of Weighted` from the same objective, without a step: validation.

    With `join` as for `make_step`, `fixed` is a fourth argument.

    The sums of several batches add (`jax.tree.map(jnp.add, …)`); `mean_of` divides once, at the end.
    """

    def measure(params: PyTree, batch: PyTree, key: Key[Array, ""], *fixed: PyTree):
        def one(microbatch):
            return _in_order(objective(_joined(join, params, fixed), microbatch, key))

        def add(so_far, microbatch):
            return jax.tree.map(jnp.add, so_far, one(microbatch)), None

        shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], batch))
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, nothing, batch)[0]

    return jax.jit(
        measure, in_shardings=(placed_params, split_over(mesh), None, *([] if join is None else [None]))
    )
