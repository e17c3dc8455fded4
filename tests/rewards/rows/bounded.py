import functools

import jax.numpy as jnp

from prefjax.rewards import (
    centred_rewards,
    log_sigmoid_centred_rewards,
    par_rewards,
    polynomial_sigmoid,
    relative_rewards,
)
from tests.rewards.rows import Row

TENSORS = ("score", "score M")
ROWS = {
    "par": Row(par_rewards, TENSORS, {"slope": 2.0}),
    "centred": Row(centred_rewards, TENSORS, {}),
    "relative": Row(relative_rewards, TENSORS, {}, call=functools.partial(relative_rewards, shape=jnp.tanh)),
    "log_sigmoid_centred": Row(log_sigmoid_centred_rewards, TENSORS, {"quantile": 0.85, "epsilon": 1e-5}),
    "polynomial_sigmoid": Row(polynomial_sigmoid, ("score",), {}),
}
