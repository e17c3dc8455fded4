"""Losses on single completions: written numbers, the reference point of a whole step, one pair as two examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import apo_zero_loss, apo_zero_unpaired_loss, kl_k1, kto_kl, kto_loss
from prefjax.types import Weighted

LIKED, DISLIKED = jnp.float32([1.0, -1.0]), jnp.float32([-0.5, 1.0])
RATIOS, LABELS = jnp.concatenate([LIKED, DISLIKED]), jnp.float32([1, 1, 0, 0])


@pytest.mark.parametrize(
    ("kl", "values", "slopes"),
    [
        (0.0, [0.47502081, 0.52497919, 0.4875026, 0.52497919], [-0.0249376, -0.0249376]),
        (0.3, [0.48250714, 0.53245431, 0.48001066, 0.51749286], [-0.0249694, -0.02489467]),
        (-5.0, [0.47502081, 0.52497919, 0.4875026, 0.52497919], [-0.0249376, -0.0249376]),  # counts as 0
    ],
)
def test_kto_written_numbers(kl, values, slopes):
    np.testing.assert_allclose(kto_loss(RATIOS, LABELS, beta=0.1, kl=kl), values, atol=1e-7)
    gradient = jax.grad(lambda r: kto_loss(r, LABELS, beta=0.1, kl=kl).sum())(RATIOS)
    np.testing.assert_allclose(gradient[:2], slopes, atol=1e-7)
    assert np.all(gradient[2:] > 0)


def test_kto_weights_belong_to_their_labels_and_its_kl_has_no_gradient():
    plain = kto_loss(RATIOS, LABELS, beta=0.1, kl=0.3)
    weighed = kto_loss(RATIOS, LABELS, beta=0.1, kl=0.3, desirable_weight=2.0, undesirable_weight=3.0)
    np.testing.assert_allclose(weighed / plain, [2, 2, 3, 3], rtol=1e-6)
    assert float(jax.grad(lambda kl: kto_loss(RATIOS, LABELS, beta=0.1, kl=kl).sum())(0.3)) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.01, 1), st.floats(0.5, 2), st.floats(0.5, 2))
def test_with_its_kl_at_zero_kto_is_apo_zero_apart(liked, disliked, beta, w_d, w_u):
    weights = {"beta": beta, "desirable_weight": w_d, "undesirable_weight": w_u}
    ratios, labels = jnp.float32([liked, disliked]), jnp.float32([1, 0])
    apart = apo_zero_unpaired_loss(ratios, labels, **weights)
    np.testing.assert_array_equal(apart, kto_loss(ratios, labels, kl=0.0, **weights))
    together = apo_zero_loss(ratios[0], ratios[1], beta=beta)
    np.testing.assert_allclose(apart[0] / w_d + apart[1] / w_u, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("liked", "direction"), [(0.6, 1), (0.4, -1)])
def test_kto_drifts_the_way_of_the_weighed_majority_and_stops_nowhere(liked, direction):
    """w_D = 1.1, w_U = 0.9: the threshold is 0.45."""
    weights = {"beta": 0.1, "kl": 0.0, "desirable_weight": 1.1, "undesirable_weight": 0.9}

    def mean(ratio):
        one, none = kto_loss(jnp.stack([ratio, ratio]), jnp.float32([1, 0]), **weights)
        return liked * one + (1 - liked) * none

    slopes = jax.vmap(jax.grad(mean))(jnp.linspace(-60, 60, 25))
    assert np.all(np.sign(slopes) == -direction)


@pytest.mark.parametrize(("ratios", "z0"), [([0.4, -0.1, -0.6, 0.5], 0.05), ([-0.4, -0.1], 0.0)])
def test_the_reference_point_of_the_card(ratios, z0):
    kl = kto_kl(jnp.float32(ratios)).mean()
    assert max(float(kl), 0.0) == pytest.approx(z0, abs=1e-7)
    held = kto_loss(RATIOS, LABELS, beta=0.1, kl=kl)
    np.testing.assert_allclose(held, kto_loss(RATIOS, LABELS, beta=0.1, kl=z0), rtol=1e-6)


def test_the_reference_point_is_of_the_whole_step_and_fillers_and_gradients_take_no_part():
    ratios = jnp.float32([[0.4, -0.1, jnp.nan], [-0.6, 0.5, 3.0]])
    weight = jnp.float32([[1, 1, 0], [1, 1, 0]])
    whole = kto_kl(ratios, weight)
    assert float(whole.mean()) == pytest.approx(0.05, abs=1e-7)
    parts = jax.tree.map(jnp.add, *(kto_kl(*part) for part in zip(ratios, weight, strict=True)))
    assert isinstance(parts, Weighted)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    # Clamped by halves it would be another number: the second half alone is below 0.
    assert float(kto_kl(ratios[1], weight[1]).mean()) < 0
    np.testing.assert_array_equal(jax.grad(lambda r: kto_kl(r, weight).mean())(ratios), 0.0)


def test_over_completions_of_the_policy_itself_the_reference_point_is_the_divergence():
    logits = jnp.float32([[0.3, -1.0, 0.5], [1.0, 0.2, -0.7]])
    ours, theirs = jax.nn.log_softmax(logits)
    kl = float(jnp.sum(jnp.exp(ours) * (ours - theirs)))
    counted = kto_kl(ours - theirs, jnp.exp(ours))
    assert float(counted.mean()) == pytest.approx(kl, rel=1e-5)
    assert float(Weighted.of(kl_k1(ours, theirs), jnp.exp(ours)).mean()) == pytest.approx(kl, rel=1e-5)
