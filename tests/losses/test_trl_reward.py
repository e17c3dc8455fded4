"""What TRL's RewardTrainer computes, with margins and centring (tests/goldens/losses/make_trl_reward.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import bradley_terry_loss, centring_term
from prefjax.types import Weighted

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/losses/trl_reward.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_agrees_on_20_batches(name):
    margins = np.float32([batch["margins"] for batch in GOLDEN["batches"]])
    margins *= name in ("margin", "both")

    def mean(rewards, margin):
        pairs = bradley_terry_loss(*rewards, margin=margin)
        return Weighted.of(pairs + GOLDEN["coefficients"][name] * centring_term(*rewards)).mean()

    both = jax.jit(jax.vmap(jax.value_and_grad(mean)))
    rewards = np.float32([batch["rewards"] for batch in GOLDEN["batches"]])
    values, gradients = both(jnp.asarray(rewards), jnp.asarray(margins))
    np.testing.assert_allclose(values, GOLDEN["losses"][name], rtol=1e-5)
    np.testing.assert_allclose(gradients, GOLDEN["gradients"][name], rtol=1e-5, atol=1e-6)
