"""Schedules and AdamW against their equations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.train import make_optimizer, make_schedule


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedules(name, warmup):
    peak, total = 0.3, 20
    schedule = make_schedule(peak, schedule=name, warmup_steps=warmup, steps=total)
    for t in range(total):
        if t < warmup:
            expected = peak * t / warmup
        else:
            progress = (t - warmup) / (total - warmup)
            expected = (
                peak
                * {"constant": 1, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[
                    name
                ]
            )
        assert float(schedule(t)) == pytest.approx(expected, abs=1e-7)


def test_warmup_longer_than_the_run():
    with pytest.raises(InputError, match="warmup"):
        make_schedule(1.0, warmup_steps=9, steps=5)


def test_one_step_of_adamw_by_hand():
    params = {"matrix": jnp.full((2, 2), 2.0), "norm": jnp.full(3, 2.0)}
    grads = {"matrix": jnp.full((2, 2), 3.0), "norm": jnp.full(3, 4.0)}
    rate, decay, clip = 0.1, 0.5, 1.0
    optimizer = make_optimizer(make_schedule(rate, steps=1), weight_decay=decay, clip_norm=clip)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    scale = clip / math.sqrt(4 * 9 + 3 * 16)
    # After bias correction the first step is g / (|g| + ε), whatever the betas; only the matrix decays.
    adam = {k: float(v.ravel()[0]) * scale / (float(v.ravel()[0]) * scale + 1e-8) for k, v in grads.items()}
    np.testing.assert_allclose(updates["matrix"], -rate * (adam["matrix"] + decay * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["norm"], -rate * adam["norm"], rtol=1e-5)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
