"""Losses on pairs against their papers: values, gradients, optima and the edge of float32."""

import json
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import (
    apo_zero_loss,
    bradley_terry_loss,
    dpo_loss,
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
    "sppo_hard": (sppo_hard_loss, {}, [36.25, 72.0], [-8.0, -12.0], [9.0, 12.0]),
    "apo_zero": (
        apo_zero_loss,
        {},
        [0.96252342, 1.04995837],
        [-0.0249376, -0.0249376],
        [0.02498438, 0.0249376],
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
        (sppo_hard_loss, {}, 50.0),
        (apo_zero_loss, {}, 1.0),
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
        (sppo_hard_loss, {}, 0.8, 6.0),  # each log-ratio at ±(p - 1/2)/β
    ],
)
def test_population_optimum(loss, settings, p, optimum):
    with jax.enable_x64(True):
        found = minimiser(lambda c, r: loss(c, r, beta=0.1, **settings), p)
    assert found == pytest.approx(optimum, abs=6e-8)


def expected_slopes(loss):
    def expected(s):
        return 0.8 * loss(s / 2, -s / 2, beta=0.1) + 0.2 * loss(-s / 2, s / 2, beta=0.1)

    return jax.vmap(jax.grad(expected))


def test_the_hinge_rests_at_its_margin_and_apo_zero_never_rests():
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            expected_slopes(hinge_loss)(jnp.array([9.9, 10.1])), [-0.06, 0.02], atol=1e-12
        )
        # Towards the majority, ever more slowly.
        assert np.all(np.asarray(expected_slopes(apo_zero_loss)(jnp.array([0.0, 10.0, 100.0, 500.0]))) < 0)


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
    for loss in (dpo_loss, ipo_loss, hinge_loss):
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


GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/losses/trl.json").read_text())


@pytest.mark.parametrize("name", GOLDEN["losses"])
def test_agrees_with_trl_on_200_pairs(name):
    columns = np.array(GOLDEN["pairs"], np.float64).T
    chosen, rejected, chosen_length, rejected_length, margin = columns
    if name == "reward":

        def loss(chosen, rejected):
            return bradley_terry_loss(chosen, rejected, margin=jnp.float32(margin))
    else:
        kind, beta, smoothing = (word.split("=")[-1] for word in name.split(" "))
        beta, smoothing = float(beta), float(smoothing)
        loss = {
            "sigmoid": lambda c, r: dpo_loss(c, r, beta=beta),  # TRL's sigmoid ignores label_smoothing
            "ipo": lambda c, r: ipo_loss(
                c / jnp.float32(chosen_length), r / jnp.float32(rejected_length), beta=beta
            ),
            "hinge": lambda c, r: hinge_loss(c, r, beta=beta),
            "robust": lambda c, r: robust_dpo_loss(c, r, beta=beta, label_smoothing=smoothing),
            "apo_zero": lambda c, r: apo_zero_loss(c, r, beta=beta),
            "sppo_hard": lambda c, r: sppo_hard_loss(c, r, beta=beta),
        }[kind]
    chosen, rejected = jnp.float32(chosen), jnp.float32(rejected)
    np.testing.assert_allclose(loss(chosen, rejected), GOLDEN["losses"][name], rtol=1e-5, atol=1e-6)
    gradients = jax.grad(lambda c, r: loss(c, r).sum(), argnums=(0, 1))(chosen, rejected)
    np.testing.assert_allclose(np.stack(gradients, axis=1), GOLDEN["gradients"][name], rtol=1e-5, atol=1e-6)
