"""Plackett-Luce: probabilities of all rankings sum to one, two is Bradley-Terry, ragged lists."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import bradley_terry_loss, dpo_loss, plackett_luce_loss


def test_all_rankings_of_four_have_probabilities_that_sum_to_one():
    with jax.enable_x64(True):
        scores = jnp.array([0.3, -1.0, 2.0, 0.5])
        orders = jnp.array(list(itertools.permutations(range(4))))
        losses = plackett_luce_loss(scores[orders], jnp.ones((24, 4)))
        assert float(jnp.exp(-losses).sum()) == pytest.approx(1.0, abs=1e-12)
        # By hand, best first: e²/(…) · e^.5/(…) · e^.3/(…)
        by_hand = 1.0
        rest = [2.0, 0.5, 0.3, -1.0]
        while rest:
            by_hand *= math.exp(rest[0]) / sum(map(math.exp, rest))
            rest = rest[1:]
        best_first = plackett_luce_loss(jnp.sort(scores)[::-1], jnp.ones(4))
        assert float(best_first) == pytest.approx(-math.log(by_hand), rel=1e-12)


def test_two_are_bradley_terry_and_dpo():
    scores = jnp.float32([[1.0, -0.5], [-1.0, 1.0]])
    loss = plackett_luce_loss(scores, jnp.ones((2, 2)))
    np.testing.assert_allclose(loss, bradley_terry_loss(scores[:, 0], scores[:, 1]), rtol=1e-6)
    scaled = plackett_luce_loss(0.1 * scores, jnp.ones((2, 2)))
    np.testing.assert_allclose(scaled, dpo_loss(scores[:, 0], scores[:, 1], beta=0.1), rtol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4, np.nan, np.inf, -np.inf])
def test_absent_ones_take_no_part_wherever_they_stand(garbage):
    scores, mask = np.float32([0.3, 9.0, -1.0, 2.0, 9.0]), jnp.float32([1, 0, 1, 1, 0])
    full = jnp.asarray(np.where(mask == 1, scores, np.float32(garbage)))
    value, gradient = jax.value_and_grad(plackett_luce_loss)(full, mask)
    alone, its = jax.value_and_grad(plackett_luce_loss)(
        jnp.asarray(scores[np.asarray(mask) == 1]), jnp.ones(3)
    )
    assert float(value) == pytest.approx(float(alone), rel=1e-6)
    np.testing.assert_allclose(gradient[jnp.array([0, 2, 3])], its, rtol=1e-5)
    np.testing.assert_array_equal(gradient[jnp.array([1, 4])], 0.0)


def test_equal_scores_single_ones_and_none():
    assert float(plackett_luce_loss(jnp.zeros(5), jnp.ones(5))) == pytest.approx(math.log(120), rel=1e-6)
    for mask in ([0.0, 1.0, 0.0], [0.0, 0.0, 0.0]):
        value, gradient = jax.value_and_grad(plackett_luce_loss)(
            jnp.float32([1.0, 2.0, 3.0]), jnp.float32(mask)
        )
        assert float(value) == 0.0
        np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


def test_only_differences_of_scores_count():
    scores, mask = jnp.float32([0.3, -1.0, 2.0]), jnp.ones(3)
    assert float(plackett_luce_loss(scores + 50, mask)) == pytest.approx(
        float(plackett_luce_loss(scores, mask)), rel=1e-5
    )
