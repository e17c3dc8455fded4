"""Binary classifier optimisation: written numbers, its shift over steps, its weights, where it comes to rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import bco_importance_weight, bco_loss, bco_pair_loss, bco_shift
from prefjax.types import Weighted

LIKED, DISLIKED = jnp.float32([1.0, -1.0]), jnp.float32([-0.5, 1.0])
RATIOS, LABELS = jnp.concatenate([LIKED, DISLIKED]), jnp.float32([1, 1, 0, 0])


def test_written_numbers():
    # δ = .0125 is the mean of βρ over these four, TRL's first batch.
    shift = bco_shift(RATIOS, beta=0.1).mean()
    assert float(shift) == pytest.approx(0.0125, rel=1e-6)
    loss, slope = jax.value_and_grad(lambda r: bco_loss(r, LABELS, beta=0.1, shift=shift).sum())(RATIOS)
    values = [0.65035391, 0.75097838, 0.66238538, 0.73785391]
    np.testing.assert_allclose(bco_loss(RATIOS, LABELS, beta=0.1, shift=shift), values, atol=1e-7)
    assert float(loss) == pytest.approx(sum(values), rel=1e-6)
    # By hand: β(σ(βρ - δ) - 1) where liked, β σ(βρ - δ) where not.
    chances = 1 / (1 + np.exp(0.0125 - 0.1 * np.float64(RATIOS)))
    np.testing.assert_allclose(slope, 0.1 * (chances - [1, 1, 0, 0]), rtol=1e-5)
    assert float(jax.grad(lambda s: bco_loss(RATIOS, LABELS, beta=0.1, shift=s).sum())(0.3)) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 2), st.floats(-3, 3))
def test_a_pair_is_its_two_examples(liked, disliked, beta, shift):
    apart = bco_loss(jnp.float32([liked, disliked]), jnp.float32([1, 0]), beta=beta, shift=shift)
    together = bco_pair_loss(jnp.float32(liked), jnp.float32(disliked), beta=beta, shift=shift)
    np.testing.assert_allclose(apart.sum(), together, rtol=1e-5, atol=1e-6)


def test_the_shift_runs_over_everything_seen_and_has_no_gradient():
    steps = jnp.float32([[1.0, -1.0, jnp.nan], [4.0, 0.0, 2.0]])
    weights = jnp.float32([[1, 1, 0], [1, 1, 1]])
    so_far, shifts = Weighted(jnp.zeros(()), jnp.zeros(())), []
    for logratio, weight in zip(steps, weights, strict=True):
        so_far = jax.tree.map(jnp.add, so_far, bco_shift(logratio, weight, beta=0.5))
        shifts.append(float(so_far.mean()))
    np.testing.assert_allclose(shifts, [0.0, 0.5 * 6 / 5], atol=1e-7)
    gradient = jax.grad(lambda r: bco_shift(r, weights, beta=0.5).mean())(steps)
    np.testing.assert_array_equal(gradient, 0.0)
    # As many of both labels: the middle of their means, the paper's.
    middle = 0.5 * (0.1 * LIKED.mean() + 0.1 * DISLIKED.mean())
    assert float(bco_shift(RATIOS, beta=0.1).mean()) == pytest.approx(float(middle), rel=1e-6)


def test_an_importance_weight_is_the_odds_within_the_cut():
    chances = np.array([0.01, 0.3, 0.5, 0.75, 0.9, 0.99, 1 - 1e-9])
    logits = np.log(chances) - np.log1p(-chances)
    by_trl = np.clip(chances / (1 - chances + 1e-8), 0.5, 10.0)
    np.testing.assert_allclose(bco_importance_weight(jnp.float32(logits)), by_trl, rtol=1e-5)
    assert float(bco_importance_weight(jnp.float32(3.0), minimum=1.0, maximum=1.0)) == 1.0
    slopes = jax.vmap(jax.grad(bco_importance_weight))(jnp.float32([-5.0, 0.0, 5.0]))
    np.testing.assert_allclose(slopes, [0.0, 1.0, 0.0], rtol=1e-6)


def test_weighed_dislikes_are_as_if_their_prompts_had_been_those_of_the_liked():
    """Two prompts; liked ones come from the first with 0.8, disliked ones with 0.4: the density ratio is met."""
    liked, disliked = np.array([0.8, 0.2]), np.array([0.4, 0.6])
    balanced = liked / (liked + disliked)  # what a classifier of balanced classes says
    weight = bco_importance_weight(jnp.float32(np.log(balanced) - np.log1p(-balanced)), minimum=0.01)
    np.testing.assert_allclose(disliked * weight, liked, rtol=1e-5)


@pytest.mark.parametrize("liked", [0.2, 0.5, 0.9])
def test_a_completion_comes_to_rest_at_the_logit_of_being_liked(liked):
    rest = jnp.float32((np.log(liked / (1 - liked)) + 0.3) / 0.1)

    def mean(ratio):
        one, none = bco_loss(jnp.stack([ratio, ratio]), jnp.float32([1, 0]), beta=0.1, shift=0.3)
        return liked * one + (1 - liked) * none

    assert float(jax.grad(mean)(rest)) == pytest.approx(0.0, abs=1e-7)
    assert float(jax.grad(mean)(rest - 1)) < 0 < float(jax.grad(mean)(rest + 1))
