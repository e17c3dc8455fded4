"""Losses on pairs against their papers: values, gradients, optima and the edge of float32."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    apo_zero_loss,
    cpo_loss,
    discopop_loss,
    dpo_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    robust_dpo_loss,
    sppo_hard_loss,
)

# (L_w, L_l, R_w, R_l) = (-12, -14, -13, -13.5), lengths 6 and 7; (-20, -18.5, -19, -19.5), lengths 10 and 8.
CHOSEN, REJECTED = np.array([1.0, -1.0]), np.array([-0.5, 1.0])
CHOSEN_LENGTH, REJECTED_LENGTH = np.array([6.0, 10.0]), np.array([7.0, 8.0])
SMOOTH = {"label_smoothing": 0.1}


def ipo_of_averages(chosen, rejected, *, beta):
    return ipo_loss(chosen / CHOSEN_LENGTH, rejected / REJECTED_LENGTH, beta=beta)


def dpo_of_averages(chosen, rejected, *, beta):
    return dpo_loss(chosen / CHOSEN_LENGTH, rejected / REJECTED_LENGTH, beta=beta)


# Worked out by hand and in float64: values, then d/dL_w and d/dL_l, for each of the two pairs.
KNOWN = {
    "sigmoid": (dpo_loss, {}, [0.62095705, 0.79813887], [-0.04625702, -0.0549834], [0.04625702, 0.0549834]),
    "cdpo": (dpo_loss, SMOOTH, [0.63595705, 0.77813887], [-0.03625702, -0.0449834], [0.03625702, 0.0449834]),
    "robust": (
        robust_dpo_loss,
        SMOOTH,
        [0.60220705, 0.82313887],
        [-0.05875702, -0.0674834],
        [0.05875702, 0.0674834],
    ),
    "hinge": (hinge_loss, {}, [0.85, 1.2], [-0.1, -0.1], [0.1, 0.1]),
    "ipo, averages": (
        ipo_of_averages,
        {},
        [22.67573696, 27.300625],
        [-1.58730159, -1.045],
        [1.36054422, 1.30625],
    ),
    "ipo, sums": (ipo_loss, {}, [12.25, 49.0], [-7.0, -14.0], [7.0, 14.0]),
    "exo, 1e-3": (
        exo_pair_loss,
        {"label_smoothing": 1e-3},
        [2.50551656, 3.11039702],
        [-0.16797225, -0.17590396],
        [0.16797225, 0.17590396],
    ),
    "discopop": (
        discopop_loss,
        {},
        [0.84933758, 0.80575178],
        [-0.0625203, -0.04123933],
        [0.0625203, 0.04123933],
    ),
    "sigmoid_norm": (
        dpo_of_averages,
        {},
        [0.68131328, 0.70446046],
        [-0.00823413, -0.00505625],
        [0.00705783, 0.00632031],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_two_worked_pairs_values_and_gradients(name):
    loss, settings, values, by_chosen, by_rejected = KNOWN[name]
    with jax.enable_x64(True):

        def total(chosen, rejected):
            return loss(chosen, rejected, beta=0.1, **settings).sum()

        chosen, rejected = jnp.asarray(CHOSEN), jnp.asarray(REJECTED)
        got = loss(chosen, rejected, beta=0.1, **settings)
        gradients = jax.grad(total, argnums=(0, 1))(chosen, rejected)
    # The written numbers have eight digits after the point.
    np.testing.assert_allclose(got, values, atol=6e-9)
    np.testing.assert_allclose(gradients[0], by_chosen, atol=6e-9)
    np.testing.assert_allclose(gradients[1], by_rejected, atol=6e-9)


@pytest.mark.parametrize(
    ("loss", "settings", "at_start"),
    [
        (dpo_loss, {}, 0.6931471806),
        (dpo_loss, SMOOTH, 0.6931471806),
        (robust_dpo_loss, SMOOTH, 0.6931471806),
        (hinge_loss, {}, 1.0),
        (ipo_loss, {}, 25.0),
        (exo_pair_loss, {"label_smoothing": 1e-3}, 2.7612307091),
        (discopop_loss, {}, 0.8465735903),
    ],
)
def test_where_policy_is_reference(loss, settings, at_start):
    assert float(loss(jnp.zeros(()), jnp.zeros(()), beta=0.1, **settings)) == pytest.approx(
        at_start, rel=1e-6
    )


def test_equation_7_at_every_beta_in_one_compilation():
    chosen, rejected = jnp.float32(1.0), jnp.float32(-1.5)
    loss = jax.jit(chex.assert_max_traces(dpo_loss, n=1))
    for beta in (0.01, 0.1, 1.0):
        oracle = math.log1p(math.exp(-beta * 2.5))  # the paper again, in plain float64
        assert loss(chosen, rejected, beta=beta) == pytest.approx(oracle, rel=1e-6)


def minimiser(loss, p, low=-200.0, high=200.0):
    """argmin over ρ = (s/2, -s/2) of p loss(y ≻ y') + (1 - p) loss(y' ≻ y), by bisecting a derivative."""

    def expected(s):
        return p * loss(s / 2, -s / 2) + (1 - p) * loss(-s / 2, s / 2)

    slope = jax.jit(jax.grad(expected))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(jnp.float64(middle)) < 0 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("loss", "settings", "p", "optimum"),
    [
        (dpo_loss, {}, 0.8, 13.8629436),  # logit(p)/β
        (dpo_loss, SMOOTH, 0.8, 10.4596856),  # logit(.74)/β
        (robust_dpo_loss, SMOOTH, 0.74, 13.8629436),  # .74 is what flips of .1 make of .8; robust undoes them
        (ipo_loss, {}, 0.8, 3.0),  # (p - 1/2)/β
        (exo_pair_loss, {"label_smoothing": 1e-3}, 0.8, 41.4405287),  # (2p - 1) logit(1 - ε)/β
    ],
)
def test_population_optimum(loss, settings, p, optimum):
    with jax.enable_x64(True):
        found = minimiser(lambda c, r: loss(c, r, beta=0.1, **settings), p)
    assert found == pytest.approx(optimum, abs=6e-8)


def test_the_hinge_rests_at_its_margin():
    def expected(s):
        return 0.8 * hinge_loss(s / 2, -s / 2, beta=0.1) + 0.2 * hinge_loss(-s / 2, s / 2, beta=0.1)

    with jax.enable_x64(True):
        slopes = jax.vmap(jax.grad(expected))(jnp.array([9.9, 10.1]))
    np.testing.assert_allclose(slopes, [-0.06, 0.02], atol=1e-12)


def test_exo_is_the_reverse_kl_and_rests_at_its_labels():
    with jax.enable_x64(True):
        z, smoothing = jnp.float64(0.7), 0.1
        q, p = np.array([jax.nn.sigmoid(z), jax.nn.sigmoid(-z)]), np.array([0.9, 0.1])
        value = exo_pair_loss(z, jnp.float64(0.0), beta=1.0, label_smoothing=smoothing)
        assert float(value) == pytest.approx(np.sum(q * np.log(q / p)), rel=1e-12)
        slope = jax.grad(lambda z: exo_pair_loss(z, jnp.float64(0.0), beta=1.0, label_smoothing=smoothing))
        assert float(slope(jnp.log(jnp.float64(9.0)))) == pytest.approx(0.0, abs=1e-15)


def test_discopop_has_a_dip_and_a_hump():
    def loss(z):
        return discopop_loss(z, jnp.zeros_like(z), beta=1.0)

    with jax.enable_x64(True):
        written = {-0.2: 0.80575, -0.1: 0.78740, 0.0: 0.84657, 0.05: 0.87518, 0.1: 0.87379, 0.3: 0.74036}
        np.testing.assert_allclose(
            loss(jnp.array(list(written), jnp.float64)), list(written.values()), atol=6e-6
        )
        np.testing.assert_allclose(jax.vmap(jax.grad(loss))(jnp.array([-0.1186, 0.0720])), 0.0, atol=2e-3)
        # Where the first of two answers wins with probability .8, left of the hump's mirror image and right of it.
        found = minimiser(lambda c, r: discopop_loss(c, r, beta=0.1), 0.8, low=5.0)
        assert found == pytest.approx(15.7452073, abs=6e-7)
        # With EasyDeL's temperature it is another loss.
        other = discopop_loss(jnp.float64(0.3), jnp.float64(0.0), beta=1.0, temperature=1.0)
        assert abs(float(other) - 0.74036) > 0.05


def test_robust_over_flipped_labels_is_dpo_on_true_ones():
    with jax.enable_x64(True):
        chosen, rejected = jax.random.normal(jax.random.key(0), (2, 64), jnp.float64) * 10
        flips = {"beta": 0.3, "label_smoothing": 0.2}
        kept, flipped = robust_dpo_loss(chosen, rejected, **flips), robust_dpo_loss(rejected, chosen, **flips)
        expected = 0.8 * kept + 0.2 * flipped
        np.testing.assert_allclose(expected, dpo_loss(chosen, rejected, beta=0.3), rtol=1e-12, atol=1e-12)
        none = robust_dpo_loss(chosen, rejected, beta=0.3, label_smoothing=0.0)
        np.testing.assert_allclose(none, dpo_loss(chosen, rejected, beta=0.3), rtol=1e-15)


def test_only_losses_of_the_difference_ignore_a_shift():
    chosen, rejected = jnp.float32([1.0, -1.0]), jnp.float32([-0.5, 1.0])
    for loss in (dpo_loss, ipo_loss, hinge_loss, discopop_loss):
        shifted = loss(chosen + 4, rejected + 4, beta=0.1)
        np.testing.assert_allclose(shifted, loss(chosen, rejected, beta=0.1), rtol=1e-6)
    for loss in (apo_zero_loss, sppo_hard_loss):
        assert np.all(
            np.abs(loss(chosen + 4, rejected + 4, beta=0.1) - loss(chosen, rejected, beta=0.1)) > 1e-3
        )


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_ipo_on_a_chain_of_three_arms_meets_its_closed_form(beta):
    # Pairs (1,2), (2,3), (1,3) from a uniform reference: log-ratio differences of the optimum are a, a, 2a,
    # a = 1/(3β), so the loss is the mean of (a - 3a/2)², twice, and (2a - 3a/2)²: a²/4 = 1/(36β²).
    with jax.enable_x64(True):
        winners, losers = jnp.array([0, 1, 0]), jnp.array([1, 2, 2])

        def loss(logits):
            logratio = jax.nn.log_softmax(logits) + jnp.log(3.0)
            return ipo_loss(logratio[winners], logratio[losers], beta=beta).mean()

        logits = jnp.zeros(3, jnp.float64)
        for _ in range(60):  # a quadratic of the logits up to their mean: Newton without it
            logits = logits - jnp.linalg.pinv(jax.hessian(loss)(logits)) @ jax.grad(loss)(logits)
        policy, value = jax.nn.softmax(logits), loss(logits)
    expected = {
        1.0: ([0.44844086, 0.32132192, 0.23023722], 0.0277777778),
        0.1: ([0.96436979, 0.03440292, 0.00122729], 2.7777777778),
    }[beta]
    np.testing.assert_allclose(policy, expected[0], atol=6e-9)
    assert value == pytest.approx(expected[1], abs=6e-11)


@jax.jit
def both_sides(chosen, rejected, beta, smoothing):
    pair, swapped = (chosen, rejected), (rejected, chosen)
    setting = {"beta": beta, "label_smoothing": smoothing}
    plain = dpo_loss(*pair, beta=beta)
    z = beta * (chosen - rejected)
    q, p = jax.nn.sigmoid(jnp.stack([z, -z])), jnp.stack([1 - smoothing, smoothing])
    log_q = jax.nn.log_sigmoid(jnp.stack([z, -z]))
    kept, flipped = robust_dpo_loss(*pair, **setting), robust_dpo_loss(*swapped, **setting)
    small = 0.01 * z
    return {
        "robust, no flips": (robust_dpo_loss(*pair, beta=beta, label_smoothing=0.0), plain),
        "robust, both ways": ((1 - smoothing) * kept + smoothing * flipped, plain),
        "labels either way": (
            dpo_loss(*pair, **setting), (1 - smoothing) * plain + smoothing * dpo_loss(*swapped, beta=beta)
        ),
        "the winner and the loser exchanged": (dpo_loss(*swapped, beta=beta), z + plain),
        "a uniform reference": (cpo_loss(*pair, **setting), dpo_loss(*pair, **setting)),
        "the KL from labels": (dpo_loss(*pair, **setting) + jnp.sum(p * jnp.log(p)), jnp.sum(p * (jnp.log(p) - log_q))),
        "the KL to labels": (exo_pair_loss(*pair, **setting), jnp.sum(q * (log_q - jnp.log(p)))),
        # DPO near 0 is a squared loss: of (z - 2), or of IPO.
        "(z - 2)²/8": (
            dpo_loss(small, 0.0 * small, beta=1.0) - jnp.log(2.0), ((small - 2) ** 2 - 4) / 8
        ),
        "ipo": (
            beta**2 / 8 * ipo_loss(*pair, beta=beta / 4), (z - 2) ** 2 / 8
        ),
        "discopop, far wrong": (discopop_loss(-50.0 - jnp.abs(z), 0.0 * z, beta=1.0), 50 + jnp.abs(z)),
        "discopop, far right": (
            discopop_loss(5.0 + jnp.abs(z), 0.0 * z, beta=1.0), jnp.exp(-5.0 - jnp.abs(z))
        ),
        "hinge within 1": (jnp.abs(hinge_loss(*pair, beta=beta) - plain) <= 1 + 1e-5, jnp.bool_(True)),
    }  # fmt: skip


NUMBERS = st.floats(-30, 30).map(np.float64)


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0.02, 2).map(np.float64), st.floats(0.01, 0.49).map(np.float64))
def test_relatives(chosen, rejected, beta, smoothing):
    with jax.enable_x64(True):
        sides = both_sides(*(jnp.asarray(x) for x in (chosen, rejected, beta, smoothing)))
    for name, (found, expected) in sides.items():
        loose = 1e-2 if name == "(z - 2)²/8" else 1e-9  # the next term is z⁴/192
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=loose, err_msg=name)


def test_robust_has_no_optimum_where_flips_cannot_explain_the_labels():
    def expected(s, p):
        there, back = (robust_dpo_loss(a, -a, beta=0.1, label_smoothing=0.1) for a in (s / 2, -s / 2))
        return p * there + (1 - p) * back

    slope = jax.jit(jax.grad(expected))
    with jax.enable_x64(True):
        far = jnp.float64(1e4)
        assert float(slope(far, 0.95)) < 0  # more wins than 1 - ε
        assert float(slope(far, 0.85)) > 0
