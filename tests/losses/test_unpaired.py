"""Losses on single completions: written numbers, the reference point, and one pair as two examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import apo_zero_loss, bco_loss, bco_pair_loss, kto_loss

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


def test_kto_with_its_kl_at_zero_is_apo_zero_apart():
    apart = kto_loss(RATIOS, LABELS, beta=0.1, kl=0.0)
    np.testing.assert_allclose(apart[:2] + apart[2:], apo_zero_loss(LIKED, DISLIKED, beta=0.1), rtol=1e-6)


def test_bco_written_numbers():
    # δ = .0125 is the mean of βρ over these four, TRL's first batch.
    shift = float(0.1 * RATIOS.mean())
    assert shift == pytest.approx(0.0125, rel=1e-6)
    loss = bco_loss(RATIOS, LABELS, beta=0.1, shift=shift)
    np.testing.assert_allclose(loss, [0.65035391, 0.75097838, 0.66238538, 0.73785391], atol=1e-7)
    assert float(jax.grad(lambda s: bco_loss(RATIOS, LABELS, beta=0.1, shift=s).sum())(0.3)) == 0.0


def test_bco_of_a_pair_is_its_two_examples():
    apart = bco_loss(RATIOS, LABELS, beta=0.1, shift=0.2)
    together = bco_pair_loss(LIKED, DISLIKED, beta=0.1, shift=0.2)
    np.testing.assert_allclose(apart[:2] + apart[2:], together, rtol=1e-6)
