"""Anchored losses on pairs: written numbers, where they rest, and what becomes of the chosen completion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    bco_pair_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    nca_pair_loss,
    sppo_hard_loss,
    sppo_loss,
)

# The two pairs of test_preference.py, β = 0.1: values, then d/dL_w and d/dL_l.
CHOSEN, REJECTED = np.array([1.0, -1.0]), np.array([-0.5, 1.0])
KNOWN = {
    "sppo_hard": (sppo_hard_loss, [36.25, 72.0], [-8.0, -12.0], [9.0, 12.0]),
    "apo_zero": (
        apo_zero_loss,
        [0.96252342, 1.04995837],
        [-0.0249376, -0.0249376],
        [0.02498438, 0.0249376],
    ),
    "apo_down": (
        apo_down_loss,
        [0.98754934, 1.02485481],
        [0.0000777, 0.00018595],
        [0.0248599, 0.02475166],
    ),
    "nca_pair": (
        nca_pair_loss,
        [1.35082481, 1.43879332],
        [-0.02125312, -0.02874688],
        [0.02437513, 0.02624896],
    ),
    "bco_pair": (
        bco_pair_loss,
        [1.31285631, 1.48879332],
        [-0.04750208, -0.05249792],
        [0.04875026, 0.05249792],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_two_worked_pairs_values_and_gradients(name):
    loss, values, by_chosen, by_rejected = KNOWN[name]
    with jax.enable_x64(True):
        pairs = jnp.asarray(CHOSEN), jnp.asarray(REJECTED)
        got = loss(*pairs, beta=0.1)
        gradients = jax.grad(lambda c, r: loss(c, r, beta=0.1).sum(), argnums=(0, 1))(*pairs)
    np.testing.assert_allclose(got, values, atol=6e-9)
    np.testing.assert_allclose(gradients[0], by_chosen, atol=6e-9)
    np.testing.assert_allclose(gradients[1], by_rejected, atol=6e-9)


@pytest.mark.parametrize(
    ("loss", "at_start"),
    [
        (sppo_hard_loss, 50.0),
        (apo_zero_loss, 1.0),
        (apo_down_loss, 1.0),
        (nca_pair_loss, 1.3862943611),
        (bco_pair_loss, 1.3862943611),
    ],
)
def test_where_policy_is_reference(loss, at_start):
    assert float(loss(jnp.zeros(()), jnp.zeros(()), beta=0.1)) == pytest.approx(at_start, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "optimum"),
    [
        (sppo_hard_loss, (3.0, -3.0)),  # ±(p - 1/2)/β
        (nca_pair_loss, (4.700036, -9.162907)),  # log(p/½)/β
        (bco_pair_loss, (13.862944, -13.862944)),  # logit(p)/β
    ],
)
def test_population_optimum_of_each_answer(loss, optimum):
    # Of the two answers of one prompt, the first of which wins with probability .8.
    with jax.enable_x64(True):

        def expected(ratios):
            return 0.8 * loss(ratios[0], ratios[1], beta=0.1) + 0.2 * loss(ratios[1], ratios[0], beta=0.1)

        ratios = jnp.zeros(2, jnp.float64)
        step = jax.jit(lambda r: r - jnp.linalg.solve(jax.hessian(expected)(r), jax.grad(expected)(r)))
        for _ in range(30):
            ratios = step(ratios)
    np.testing.assert_allclose(ratios, optimum, atol=1e-6)


def test_apo_never_rests():
    def expected(s):
        return 0.8 * apo_zero_loss(s / 2, -s / 2, beta=0.1) + 0.2 * apo_zero_loss(-s / 2, s / 2, beta=0.1)

    with jax.enable_x64(True):
        # Towards the majority, ever more slowly.
        slopes = jax.vmap(jax.grad(expected))(jnp.array([0.0, 10.0, 100.0, 500.0]))
    assert np.all(np.asarray(slopes) < 0)


def test_apo_down_and_nca_differ_in_where_the_chosen_one_goes():
    with jax.enable_x64(True):
        # Far enough apart for the difference to be content: then apo_down lowers both, nca raises the chosen one.
        far = jnp.float32(10.0), jnp.float32(-60.0)
        down = jax.grad(lambda c, r: apo_down_loss(c, r, beta=0.1), argnums=(0, 1))(*far)
        up = jax.grad(lambda c, r: nca_pair_loss(c, r, beta=0.1), argnums=(0, 1))(
            jnp.float32(0.0), jnp.float32(0.0)
        )
    assert down[0] > 0
    assert down[1] > 0
    assert up[0] < 0


def test_bco_shift_moves_both_and_has_no_gradient():
    pair = jnp.float32(1.0), jnp.float32(-0.5)
    moved = bco_pair_loss(pair[0] + 2.0, pair[1] + 2.0, beta=0.1, shift=0.2)
    assert float(moved) == pytest.approx(float(bco_pair_loss(*pair, beta=0.1)), rel=1e-6)
    assert float(jax.grad(lambda s: bco_pair_loss(*pair, beta=0.1, shift=s))(0.3)) == 0.0


def test_none_ignores_a_shift_of_both_log_ratios():
    chosen, rejected = jnp.asarray(CHOSEN, jnp.float32), jnp.asarray(REJECTED, jnp.float32)
    for loss, *_ in KNOWN.values():
        moved = loss(chosen + 4, rejected + 4, beta=0.1) - loss(chosen, rejected, beta=0.1)
        assert np.all(np.abs(moved) > 1e-3)


def test_win_rates_in_place_of_labels_by_hand():
    pair, rates = (jnp.float32(1.0), jnp.float32(-0.5)), (jnp.float32(0.7), jnp.float32(0.45))
    # Targets (.7 - .5)/.1 = 2 and (.45 - .5)/.1 = -.5.
    value, gradient = jax.value_and_grad(lambda p: sppo_loss(*p, *rates, beta=0.1))(pair)
    assert float(value) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(gradient, [-2.0, 0.0], atol=1e-5)
    at_start = sppo_loss(jnp.zeros(()), jnp.zeros(()), *rates, beta=0.1)
    assert float(at_start) == pytest.approx(4.25, rel=1e-5)  # 2² + .5²
    by_rates = jax.grad(lambda r: sppo_loss(*pair, *r, beta=0.1))(rates)
    np.testing.assert_array_equal(by_rates, 0.0)


@jax.jit
def both_sides(chosen, rejected, beta, shift):
    pair, setting = (chosen, rejected), {"beta": beta}
    one, none = jnp.ones_like(chosen), jnp.zeros_like(chosen)
    moved = shift / beta
    return {
        "sppo": (sppo_loss(*pair, one, none, **setting), sppo_hard_loss(*pair, **setting)),
        "ipo and an anchor": (
            sppo_hard_loss(*pair, **setting), ipo_loss(*pair, beta=beta / 2) / 2 + (chosen + rejected) ** 2 / 2
        ),
        "kto": (
            apo_zero_loss(*pair, **setting),
            kto_loss(chosen, one, kl=0.0, **setting) + kto_loss(rejected, none, kl=0.0, **setting),
        ),
        "surprise": (
            apo_down_loss(*pair, **setting), jax.nn.sigmoid(beta * chosen) - jnp.expm1(-dpo_loss(*pair, **setting))
        ),
        "nca": (
            nca_pair_loss(*pair, **setting),
            (bco_pair_loss(*pair, **setting) + bco_pair_loss(chosen, chosen, **setting)) / 2,
        ),
        "bco": (
            bco_pair_loss(*pair, shift=shift, **setting),
            bco_loss(chosen, one, shift=shift, **setting) + bco_loss(rejected, none, shift=shift, **setting),
        ),
        "a shift": (
            bco_pair_loss(chosen + moved, rejected + moved, shift=shift, **setting), bco_pair_loss(*pair, **setting)
        ),
    }  # fmt: skip


NUMBERS = st.floats(-30, 30).map(np.float64)


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0.02, 2).map(np.float64), st.floats(-2, 2).map(np.float64))
def test_relatives(chosen, rejected, beta, shift):
    with jax.enable_x64(True):
        sides = both_sides(*(jnp.asarray(x) for x in (chosen, rejected, beta, shift)))
    for name, (found, expected) in sides.items():
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_bco_s_optimum_is_shifted_by_delta():
    with jax.enable_x64(True):
        logit, shift = jnp.log(jnp.float64(4.0)), 0.3
        ratios = (shift + jnp.stack([logit, -logit])) / 0.1

        def expected(ratios):
            there, back = (
                bco_pair_loss(*ratios[jnp.array(o)], beta=0.1, shift=shift) for o in ([0, 1], [1, 0])
            )
            return 0.8 * there + 0.2 * back

        np.testing.assert_allclose(jax.grad(expected)(ratios), 0.0, atol=1e-12)
