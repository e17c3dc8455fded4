"""Losses by quantiles: written numbers, order, absent rows, and what one pair is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import aot_loss, aot_unpaired_loss, dpo_loss

# L_w, L_l, R_w, R_l of the two worked pairs: margins (2, -1.5), those of the reference (.5, .5).
PAIRS = tuple(jnp.float32(x) for x in ([-12, -20], [-14, -18.5], [-13, -19], [-13.5, -19.5]))
BOTH = jnp.ones(2)


def test_written_numbers_in_the_order_of_the_pairs():
    # δ = (1.5, -2)
    np.testing.assert_allclose(aot_loss(*PAIRS, BOTH, beta=0.1), [0.62095705, 0.79813887], atol=1e-7)
    unpaired = aot_unpaired_loss(PAIRS[0] - PAIRS[2], PAIRS[1] - PAIRS[3], BOTH, beta=0.1)
    # ρ⁺ = (1, -1) meets the ρ⁻ = (-.5, 1) of its rank: δ = (0, -.5).
    np.testing.assert_allclose(unpaired, [0.69314718, 0.71845965], atol=1e-7)


def test_mean_over_a_batch_is_that_of_the_sorted_arrays():
    with jax.enable_x64(True):
        logps = np.random.default_rng(0).normal(size=(4, 3, 16))
        loss = aot_loss(*jnp.asarray(logps), jnp.ones((3, 16)), beta=0.7, label_smoothing=0.1)
        margin, reference = np.sort(logps[0] - logps[1]), np.sort(logps[2] - logps[3])
        z = 0.7 * (margin - reference)
        expected = 0.9 * np.log1p(np.exp(-z)) + 0.1 * np.log1p(np.exp(z))
        np.testing.assert_allclose(np.sort(loss), np.sort(expected), rtol=1e-12)
        order = np.argsort(logps[0] - logps[1])
        np.testing.assert_allclose(np.take_along_axis(np.asarray(loss), order, -1), expected, rtol=1e-12)


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4, np.nan, np.inf])
def test_absent_rows_take_part_in_nothing(garbage):
    logps = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    mask = np.float32([1, 0, 1, 1, 0, 1])
    full = np.where(mask == 1, logps, np.float32(garbage))
    there = mask == 1

    def of_all(logps):
        return aot_loss(*logps, jnp.asarray(mask), beta=0.5)

    loss, gradient = of_all(jnp.asarray(full)), jax.grad(lambda x: of_all(x).sum())(jnp.asarray(full))
    alone = aot_loss(*jnp.asarray(logps[:, there]), jnp.ones(4), beta=0.5)
    np.testing.assert_allclose(loss[there], alone, rtol=1e-6)
    np.testing.assert_array_equal(loss[~there], 0.0)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[:, ~there], 0.0)
    unpaired = aot_unpaired_loss(jnp.asarray(full[0]), jnp.asarray(full[1]), jnp.asarray(mask), beta=0.5)
    np.testing.assert_allclose(
        unpaired[there],
        aot_unpaired_loss(*jnp.asarray(logps[:2, there]), jnp.ones(4), beta=0.5),
        rtol=1e-6,
    )


def test_one_pair_is_dpo():
    logps = jnp.float32([[-3.0], [-4.0], [-3.5], [-3.25]])
    one, settings = jnp.ones(1), {"beta": 0.3, "label_smoothing": 0.1}
    expected = dpo_loss(logps[0] - logps[2], logps[1] - logps[3], **settings)
    np.testing.assert_allclose(aot_loss(*logps, one, **settings), expected, rtol=1e-6)
    ratios = logps[0] - logps[2], logps[1] - logps[3]
    np.testing.assert_allclose(aot_unpaired_loss(*ratios, one, **settings), expected, rtol=1e-6)


def test_which_rejected_one_came_with_which_chosen_one_does_not_matter_unpaired():
    chosen, rejected = jnp.float32([0.3, -1.0, 2.0]), jnp.float32([0.1, 0.5, -0.7])
    loss = aot_unpaired_loss(chosen, rejected, jnp.ones(3), beta=0.5)
    np.testing.assert_array_equal(aot_unpaired_loss(chosen, rejected[::-1], jnp.ones(3), beta=0.5), loss)


def test_where_policy_and_reference_rank_the_pairs_alike_it_is_dpo_pair_by_pair():
    with jax.enable_x64(True):
        logps = np.random.default_rng(2).normal(size=(4, 8))
        logps[0] = logps[1] + np.sort(logps[0] - logps[1])
        logps[2] = logps[3] + np.sort(logps[2] - logps[3])
        logps = jnp.asarray(logps[:, np.random.default_rng(3).permutation(8)])
        settings = {"beta": 0.3, "label_smoothing": 0.1}
        expected = dpo_loss(logps[0] - logps[2], logps[1] - logps[3], **settings)
        np.testing.assert_allclose(aot_loss(*logps, jnp.ones(8), **settings), expected, rtol=1e-12)
