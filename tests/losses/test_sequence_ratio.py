"""Losses with one ratio a sequence: what they are of one another."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prefjax.losses import gmpo_loss, gspo_loss, gspo_token_loss, luspo_loss, ppo_clip_loss
from prefjax.types import Weighted

T = 4
LOGPS = hnp.arrays(np.float32, (2, T), elements=st.floats(-2, 0, width=32))
ADVANTAGES = hnp.arrays(np.float32, (2,), elements=st.floats(-2, 2, width=32))
LENGTHS = hnp.arrays(np.int32, (2,), elements=st.integers(1, T))
WIDE = {"epsilon_low": 0.2, "epsilon_high": 0.3}
NO_CLIP = {"epsilon_low": jnp.inf, "epsilon_high": jnp.inf}


def mean_of_sequences(loss, **settings):
    def mean(new, old, advantages, mask):
        return loss(new, old, advantages, mask, **settings).mean()

    return jax.jit(jax.value_and_grad(mean))


def by_token(new, old, advantages, mask):
    each = gspo_token_loss(new, old, jnp.broadcast_to(advantages[:, None], new.shape), mask, **WIDE)
    return Weighted.sequences(each, mask).mean()


def of_means(new, old, advantages, mask):
    length = mask.sum(axis=-1)
    mean = ((new - old) * mask).sum(axis=-1) / length
    return ppo_clip_loss(mean, jnp.zeros_like(mean), advantages, **WIDE).mean()


def times_length(new, old, advantages, mask):
    return (gspo_loss(new, old, advantages, mask, **WIDE) * mask.sum(axis=-1)).mean()


GSPO = mean_of_sequences(gspo_loss, **WIDE)
SAME = {
    "by token": (GSPO, jax.jit(jax.value_and_grad(by_token))),
    "ppo of the mean log-ratio": (GSPO, jax.jit(jax.value_and_grad(of_means))),
    "luspo": (mean_of_sequences(luspo_loss, **WIDE), jax.jit(jax.value_and_grad(times_length))),
    "without a clip": (mean_of_sequences(gmpo_loss, **NO_CLIP), mean_of_sequences(gspo_loss, **NO_CLIP)),
}


@given(LOGPS, LOGPS, ADVANTAGES, LENGTHS)
@settings(max_examples=30, deadline=None)
def test_identities(new, old, advantages, lengths):
    mask = np.float32(np.arange(T) < lengths[:, None])
    for name, (one, other) in SAME.items():
        for a, b in zip(one(new, old, advantages, mask), other(new, old, advantages, mask), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_gmpo_clips_tokens_on_the_side_that_would_gain():
    new = jnp.float32([[0.7, -0.7, 0.1, 0.0]])
    for advantage, ratio, moving in (
        (1.0, (0.4 - 0.7 + 0.1) / 3, [0, 1, 1]),
        (-1.0, (0.7 - 0.4 + 0.1) / 3, [1, 0, 1]),
    ):
        mask = jnp.float32([[1, 1, 1, 0]])
        value, gradient = jax.value_and_grad(
            lambda x, a=advantage, mask=mask: gmpo_loss(x, jnp.zeros_like(x), jnp.float32([a]), mask).sum()
        )(new)
        np.testing.assert_allclose(value, -advantage * np.exp(ratio), rtol=1e-6)
        np.testing.assert_allclose(gradient[0, :3], float(value) / 3 * np.array(moving), rtol=1e-5)
    nothing = gmpo_loss(new, jnp.zeros_like(new), jnp.float32([2.0]), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(nothing, [-2.0])
    nothing = luspo_loss(new, jnp.zeros_like(new), jnp.float32([2.0]), jnp.zeros((1, 4)))
    np.testing.assert_array_equal(nothing, [0.0])
