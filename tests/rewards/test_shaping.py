"""Rewards of tokens: the score where the completion ends, the price of every token, nothing in the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.rewards import kl_shaped_rewards

LOGPS = jnp.float32([[-0.8, -0.9, -1.6, 0.0], [-1.0, -0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
REFERENCE = jnp.float32([[-1.1, -0.6, -1.8, 0.0], [-0.9, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
MASK = jnp.asarray(np.arange(4) < np.array([[3], [2], [0]]))
SCORES = jnp.float32([2.0, -1.0, 9.0])


def test_by_hand():
    shaped = kl_shaped_rewards(SCORES, LOGPS, REFERENCE, MASK, beta=0.1)
    expected = [[-0.03, 0.03, 2.0 - 0.02, 0.0], [0.01, -1.0 - 0.01, 0.0, 0.0], [0.0] * 4]
    np.testing.assert_allclose(shaped, expected, atol=1e-6)


def test_the_sum_is_the_score_less_the_price_of_the_sequence():
    shaped = kl_shaped_rewards(SCORES, LOGPS, REFERENCE, MASK, beta=0.3)
    whole = SCORES - 0.3 * (LOGPS - REFERENCE).sum(axis=-1)
    np.testing.assert_allclose(shaped[:2].sum(axis=-1), whole[:2], rtol=1e-6)
    free = kl_shaped_rewards(SCORES, LOGPS, REFERENCE, MASK, beta=0.0)
    np.testing.assert_array_equal(free[:, 1:3], [[0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("garbage", [1e4, -jnp.inf, jnp.nan])
def test_padding_may_hold_anything(garbage):
    dirty = [jnp.where(MASK, x, garbage) for x in (LOGPS, REFERENCE)]
    np.testing.assert_array_equal(
        kl_shaped_rewards(SCORES, *dirty, MASK, beta=0.1),
        kl_shaped_rewards(SCORES, LOGPS, REFERENCE, MASK, beta=0.1),
    )


def test_no_gradient_any_transformation_and_float32():
    def total(logps):
        return kl_shaped_rewards(SCORES, logps, REFERENCE, MASK, beta=0.1).sum()

    np.testing.assert_array_equal(jax.grad(total)(LOGPS), 0.0)
    expected = kl_shaped_rewards(SCORES, LOGPS, REFERENCE, MASK, beta=0.1)
    mapped = jax.jit(jax.vmap(lambda *x: kl_shaped_rewards(*x, beta=0.1)))(SCORES, LOGPS, REFERENCE, MASK)
    np.testing.assert_allclose(mapped, expected, atol=1e-7)
    rough = kl_shaped_rewards(*(x.astype(jnp.bfloat16) for x in (SCORES, LOGPS, REFERENCE)), MASK, beta=0.1)
    assert rough.dtype == jnp.float32


def test_a_score_that_could_not_be_computed_stays_visible():
    shaped = kl_shaped_rewards(SCORES.at[1].set(jnp.nan), LOGPS, REFERENCE, MASK, beta=0.1)
    np.testing.assert_array_equal(jnp.isnan(shaped), (np.arange(4) == 1) & (np.arange(3) == 1)[:, None])


def test_a_score_for_each_token_is_refused():
    with pytest.raises(ValueError, match=r"kl_shaped_rewards: scores has shape \(3, 4\), logps \(3, 4\)"):
        kl_shaped_rewards.__wrapped__(LOGPS, LOGPS, REFERENCE, MASK, beta=0.1)
