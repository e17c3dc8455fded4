"""A language small enough to write down every completion, and batches that hold each as often as chance has it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prefjax.train import copied, init_state, make_mesh, make_step, place
from prefjax.types import mean_of
from tests.align.test_nash_md import EVERY, ROOM, STOP, N, exact_logp, policy_and_reference, prompts_of, which
from tests.policy.goldens import tiny

__all__ = ["EVERY", "ROOM", "STOP", "N", "exact_logp", "policy_and_reference", "prompts_of", "tiny", "which"]

STOPPED = jnp.array([1.0] * 4 + [0.0] * 9)  # the first four end with a stop token
LENGTHS = (EVERY["lengths"] - EVERY["prompt_lengths"]).astype(jnp.float32)


@partial(jax.jit, static_argnames="temperature")
def token_logps(policy, params, temperature=1.0):
    """[N, ROOM] of every completion."""
    from prefjax.policy import completion_logps

    return completion_logps(policy, params, **EVERY, max_completion=ROOM, temperature=temperature)[0]


def every_group(policy, params, size):
    """Every group of `size` completions as the rows of one batch, [1, N^size · size]; the weight is its probability."""
    index = jnp.stack(jnp.meshgrid(*[jnp.arange(N)] * size, indexing="ij"), axis=-1).reshape(-1, size)
    logp = exact_logp(policy, params)
    weight = jnp.repeat(jnp.exp(jnp.sum(logp[index], axis=-1)), size)
    batch = batch_of(policy, params, index.reshape(-1), weight)
    return jax.tree.map(lambda leaf: leaf[None], batch)


def batch_of(policy, params, numbers, weight=None):
    """A finished rollout, [B, ...], of the completions with these numbers."""
    rows = {
        **jax.tree.map(lambda leaf: leaf[numbers], EVERY),
        "behaviour_logps": token_logps(policy, params)[numbers],
        "stopped": STOPPED[numbers],
    }
    weight = jnp.ones(len(numbers)) if weight is None else weight
    return {"index": numbers, "weight": weight, "completion": rows}


def drawn(policy, params, rows, microbatches=1, seed=0):
    """A finished rollout of random completions, [M, B, ...], without a sampler to compile."""
    numbers = jnp.asarray(np.random.default_rng(seed).integers(0, N, rows))
    return cut(batch_of(policy, params, numbers), microbatches)


def cut(batch, microbatches):
    return jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)


def flat(batch):
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)


@partial(jax.jit, static_argnums=0)
def gradient(objective, params, batch):
    """Of the mean loss, and all means, of [1, B, ...]."""

    def loss(params):
        means = mean_of(objective(params, jax.tree.map(lambda leaf: leaf[0], batch), None))
        return means["loss"], means

    return jax.grad(loss, has_aux=True)(params)


def assert_gradient(got, want, *, tolerance=1e-5):
    """To 1e-5 of the largest entry."""
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert largest > 0.01
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(1.0, largest))


def step_gradient(objective, params, batch, microbatches, **axes):
    """Means and gradient out of a training step on a mesh; leaves of the batch are [B, ...]."""
    mesh, optimizer = make_mesh(**axes), optax.trace(decay=0.0)
    state = init_state(jax.tree.map(jnp.array, params), optimizer, jax.random.key(0))
    placed = copied(state, mesh)
    step = make_step(objective, optimizer, placed, mesh)
    state, means = step(jax.device_put(state, placed), place(batch, mesh, microbatches))
    return means, state.opt_state.trace


def assert_same_step(got, want, *, tolerance=2e-6):
    for name, value in want[0].items():
        np.testing.assert_allclose(got[0][name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want[1]))
    for g, w in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=tolerance * max(1.0, largest))
