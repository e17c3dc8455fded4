"""The price of length: written numbers, both ends of the ramp, and no ramp at all."""

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.rewards import overlong_penalty


def test_written_numbers():
    lengths = jnp.array([16384, 16385, 18432, 20480, 20481, 0])
    penalty = jax.jit(overlong_penalty)(lengths, max_length=20480, cache=4096)
    np.testing.assert_array_equal(penalty, [0, -0.000244140625, -0.5, -1, -1, 0])


def test_without_a_ramp():
    penalty = overlong_penalty(jnp.array([9, 10, 11]), max_length=10, cache=0)
    np.testing.assert_array_equal(penalty, [0, 0, -1])
