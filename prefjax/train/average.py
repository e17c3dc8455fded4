"""An exponential moving average of the parameters, kept in the optimiser's state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from prefjax.checks import refuse, require


class AverageState(NamedTuple):
    """Beside the optimiser's own state. Shaped as the parameters, the average is placed and saved as they are."""

    inner: PyTree
    average: PyTree
    updates: Int[Array, ""]


def with_average(
    optimizer: optax.GradientTransformation, decay: float | Callable
) -> optax.GradientTransformation:
    """The same optimiser, which also averages what the parameters become.

        θ̄₀ = θ₀,   θ̄ₜ₊₁ = d θ̄ₜ + (1 - d) θₜ₊₁       in float32, whatever the parameters are

    Started at θ₀ the weights of the average sum to 1, so there is no bias to correct; but θ₀ itself keeps the weight
    dᵗ, which in a run that is not much longer than 1 / (1 - d) is most of it: hence `warmed_up`.

    Args:
      optimizer: any; its updates stay what they are.
      decay: d in [0, 1), or a function of t = 0, 1, … (`warmed_up(d)`). 0 gives the optimiser back, and costs nothing.

    Source: Polyak and Juditsky, 1992, for averages; with this recursion Tarvainen and Valpola, "Mean teachers", 2017,
      section 2 (arXiv:1703.01780).
    """
    if not callable(decay):
        _check(decay)
        if not decay:
            return optimizer
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> AverageState:
        # Copies: a buffer that is in the state twice could not be donated.
        average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
        return AverageState(optimizer.init(params), average, jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: AverageState, params: PyTree | None = None, **extra):
        if params is None:
            raise ValueError("with_average: update(updates, state, params) needs the parameters.")
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        new = optax.apply_updates(params, updates)
        weight = 1.0 - (decay(state.updates) if callable(decay) else decay)
        average = jax.tree.map(lambda a, p: a + weight * (p.astype(jnp.float32) - a), state.average, new)
        return updates, AverageState(inner, average, state.updates + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def warmed_up(decay: float) -> Callable:
    """dₜ = min(d, (1 + t) / (10 + t)): a young average forgets faster, so the start weighs little from the start.

    After t updates θ₀ has the weight 9! t! / (t + 9)! instead of dᵗ (10⁻⁵ after 10), until the fraction reaches d.
    Source: `num_updates` of TensorFlow's `tf.train.ExponentialMovingAverage` (its documentation).
    """
    _check(decay)
    return lambda t: jnp.minimum(decay, (1.0 + t) / (10.0 + t))


def averaged_params(opt_state: PyTree) -> PyTree:
    """θ̄ out of an optimiser state made by `with_average`, also where that is one part of a chain; float32."""
    found = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, AverageState))
        if isinstance(node, AverageState)
    ]
    if len(found) != 1:
        refuse(
            "averaged_params", f"{len(found)} averages in the state", "one", "Train with --ema-decay above 0."
        )
    return found[0].average


def _check(decay: float) -> None:
    require(0 <= decay < 1, "--ema-decay", f"{decay}", "0 (no average) up to, not including, 1", "Try 0.999.")
