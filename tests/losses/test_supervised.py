"""The token loss, and the two averages that its docstring names."""

import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import nll_loss
from prefjax.types import Weighted


def test_each_token_keeps_its_own_loss():
    np.testing.assert_array_equal(
        nll_loss(jnp.float32([[-1.0, -2.0], [-0.5, -8.0]])), [[1.0, 2.0], [0.5, 8.0]]
    )


def test_the_two_averages_differ_where_lengths_do():
    loss = nll_loss(jnp.float32([[-1.0, -2.0, -3.0, -6.0], [-0.5, -9.0, jnp.nan, -9.0]]))
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert float(Weighted.tokens(loss, mask).mean()) == pytest.approx(12.5 / 5)
    assert float(Weighted.sequences(loss, mask).mean()) == pytest.approx((3.0 + 0.5) / 2)
