"""Losses without a reference: written numbers with their slopes, identities, where they come to rest."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    alphapo_loss,
    cpo_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    nll_loss,
    simpo_loss,
    slic_loss,
    tpo_loss,
)
from prefjax.types import Weighted

# Sums (-12, -20) and (-14, -18.5) of 6, 10 and 7, 8 tokens.
CHOSEN, REJECTED = jnp.float32([-12.0, -20.0]), jnp.float32([-14.0, -18.5])
AVERAGES = jnp.float32([-2.0, -2.0]), jnp.float32([-2.0, -2.3125])
GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/losses/trl_reference_free.json").read_text())
NUMBER = st.floats(-8, -0.01)


def slopes(loss, *tensors):
    return jax.jit(jax.grad(lambda t: loss(*t).sum()))(tensors)


def test_written_numbers():
    np.testing.assert_allclose(cpo_loss(CHOSEN, REJECTED, beta=0.1), [0.59813887, 0.77095705], atol=1e-7)
    np.testing.assert_allclose(
        simpo_loss(*AVERAGES, beta=2.0, gamma=0.5), [0.97407698, 0.63259904], atol=2e-7
    )
    np.testing.assert_allclose(
        simpo_loss(*AVERAGES, beta=2.5, gamma=1.375), [1.60041265, 1.03345707], atol=2e-7
    )
    np.testing.assert_allclose(
        alphapo_loss(*AVERAGES, beta=2.0, gamma=0.5, alpha=0.25), [0.97407698, 0.44758183], atol=2e-7
    )
    # Of δ = 1: a pair that is right by 2 and one that is wrong by 1.5; each target costs λ of its nats.
    targets = jnp.float32([-3.0, -4.0])
    np.testing.assert_allclose(slic_loss(CHOSEN, REJECTED, targets, delta=1.0, alpha=0.0), [0.0, 2.5])
    np.testing.assert_allclose(slic_loss(CHOSEN, REJECTED, targets, delta=1.0, alpha=0.5), [1.5, 4.5])
    np.testing.assert_allclose(
        tpo_loss(CHOSEN, REJECTED, targets, beta=0.1, alpha=0.5), [2.09813887, 2.77095705], rtol=1e-6
    )


def test_written_slopes():
    # β(σ(βΔ) - 1) by hand, Δ = 2 and -1.5.
    cpo = slopes(lambda c, r: cpo_loss(c, r, beta=0.1), CHOSEN, REJECTED)
    np.testing.assert_allclose(cpo[0], [-0.0450166, -0.0537430], atol=1e-7)
    np.testing.assert_allclose(cpo[1], -cpo[0], rtol=1e-6)
    # β σ(-z) with z = β(r⁺ - r⁻) - γ = -0.5 and 0.57177182, times e^(-αa) of each completion by itself.
    bent = slopes(lambda c, r: alphapo_loss(c, r, beta=2.0, gamma=0.5, alpha=0.25), *AVERAGES)
    steep = np.array([2 / (1 + np.exp(-0.5)), 2 / (1 + np.exp(0.57177182))])
    np.testing.assert_allclose(bent[0], -steep * np.exp(0.5), rtol=1e-6)
    np.testing.assert_allclose(bent[1], steep * np.exp([0.5, 0.25 * 2.3125]), rtol=1e-6)
    hinge = slopes(
        lambda c, r, t: slic_loss(c, r, t, delta=1.0, alpha=0.5), CHOSEN, REJECTED, jnp.float32([-3.0, -4.0])
    )
    np.testing.assert_array_equal(hinge, [[0.0, -1.0], [0.0, 1.0], [-0.5, -0.5]])


@jax.jit
def relatives(chosen, rejected, target, beta, gamma, n, smoothing):
    """Pairs of numbers that are one number."""
    both, smooth = (chosen, rejected), {"beta": beta, "label_smoothing": smoothing}
    simpo = simpo_loss(*both, gamma=gamma, **smooth)
    return [
        (cpo_loss(*both, **smooth), dpo_loss(*both, **smooth)),
        # A uniform reference: any constant, the same for both.
        (cpo_loss(*both, **smooth), dpo_loss(chosen + n, rejected + n, **smooth)),
        (simpo_loss(chosen / n, rejected / n, beta=beta * n, gamma=0.0), cpo_loss(*both, beta=beta)),
        (alphapo_loss(*both, gamma=gamma, alpha=0.0, **smooth), simpo),
        (alphapo_loss(*both, gamma=gamma, alpha=1e-6, **smooth), simpo),
        (
            alphapo_loss(*both, beta=beta, gamma=0.0, alpha=-1.0),
            dpo_loss(jnp.exp(chosen), jnp.exp(rejected), beta=beta),
        ),
        (
            slic_loss(chosen, rejected, target, delta=n, alpha=0.0),
            n * hinge_loss(chosen, rejected, beta=1 / n),
        ),
        (tpo_loss(*both, target, alpha=0.0, **smooth), cpo_loss(*both, **smooth)),
        (tpo_loss(*both, target, alpha=0.7, **smooth) + 0.7 * target, cpo_loss(*both, **smooth)),
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(NUMBER, NUMBER, NUMBER, st.floats(0.01, 3), st.floats(0, 2), st.floats(1, 9), st.floats(0, 0.4))
)
def test_relatives(numbers):
    for one, other in relatives(*map(jnp.float32, numbers)):
        np.testing.assert_allclose(one, other, rtol=3e-5, atol=3e-5)


def test_alphapo_is_smooth_in_alpha_through_zero_and_exact_where_the_power_would_cancel():
    alphas = jnp.float32([-0.2, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 0.2])
    found = jax.vmap(lambda a: alphapo_loss(*AVERAGES, beta=2.0, gamma=0.5, alpha=a))(alphas)
    powers = np.array([a if a else 1e-12 for a in np.float64(alphas)])[:, None]
    rewards = [-np.expm1(-powers * np.float64(average)) / powers for average in AVERAGES]
    np.testing.assert_allclose(found, np.logaddexp(0, 0.5 - 2 * (rewards[0] - rewards[1])), rtol=1e-6)


def test_alphapo_beyond_the_clamp_counts_as_the_clamp_without_a_slope():
    settings = {"beta": 2.0, "gamma": 0.5, "alpha": 0.25}
    unlikely, more = jnp.float32(-320.0), jnp.float32(-500.0)
    wrong = [alphapo_loss(a, jnp.float32(-1.0), **settings) for a in (unlikely, more)]
    assert float(wrong[0]) == pytest.approx(float(wrong[1]), rel=1e-6)
    assert float(wrong[0]) == pytest.approx(8 * np.exp(80.0), rel=1e-5)
    assert float(jax.grad(lambda a: alphapo_loss(a, jnp.float32(-1.0), **settings))(more)) == 0.0


@pytest.mark.parametrize("p", [0.5, 0.6, 0.9])
def test_where_one_pair_comes_to_rest(p):
    """A pair of which the first wins with probability p, both orders in the data."""

    def slope(loss, gap):
        def mean(gap):
            return p * loss(gap, jnp.zeros(())) + (1 - p) * loss(jnp.zeros(()), gap)

        return float(jax.grad(mean)(jnp.float32(gap)))

    logit, gamma = np.log(p / (1 - p)), 0.7
    assert slope(lambda c, r: cpo_loss(c, r, beta=0.3), logit / 0.3) == pytest.approx(0, abs=1e-6)
    root = (2 * p - 1 + np.sqrt((2 * p - 1) ** 2 + 4 * p * (1 - p) * np.exp(-2 * gamma))) / (
        2 * (1 - p) * np.exp(-gamma)
    )
    rests = np.log(root) / 0.3
    assert slope(lambda c, r: simpo_loss(c, r, beta=0.3, gamma=gamma), rests) == pytest.approx(0, abs=1e-6)
    if p > 0.5:
        assert rests > logit / 0.3

        def hinge(c, r):
            return slic_loss(c, r, jnp.zeros(()), delta=1.5, alpha=0.0)

        assert slope(hinge, 1.49) < 0 < slope(hinge, 1.51)


# TRL's CPOTrainer, with `cpo_alpha` 0: what we call, of sums or averages as TRL does.
COLUMN = {name: np.array(values, np.float32) for name, values in GOLDEN["columns"].items()}
SUMS = COLUMN["chosen_logp"], COLUMN["rejected_logp"]
PER_TOKEN = SUMS[0] / COLUMN["chosen_length"], SUMS[1] / COLUMN["rejected_length"]
CPO = {
    "alphapo alpha=0.25": (lambda c, r: alphapo_loss(c, r, beta=2.5, gamma=0.5, alpha=0.25), PER_TOKEN),
    "alphapo alpha=-0.5": (lambda c, r: alphapo_loss(c, r, beta=2.5, gamma=0.5, alpha=-0.5), PER_TOKEN),
    "alphapo alpha=0.25 label_smoothing=0.1": (
        lambda c, r: alphapo_loss(c, r, beta=2.5, gamma=0.5, alpha=0.25, label_smoothing=0.1),
        PER_TOKEN,
    ),
    "hinge": (lambda c, r: hinge_loss(c, r, beta=0.1), SUMS),
    "ipo": (lambda c, r: ipo_loss(c, r, beta=0.1), PER_TOKEN),
}


def test_every_golden_of_cpo_is_compared():
    assert set(GOLDEN["cpo"]) == set(CPO)


@pytest.mark.parametrize("name", CPO)
def test_agrees_with_trl_on_100_pairs(name):
    loss, columns = CPO[name]
    columns = tuple(map(jnp.asarray, columns))
    golden = GOLDEN["cpo"][name]
    np.testing.assert_allclose(loss(*columns), golden["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        np.stack(slopes(loss, *columns), axis=1), golden["gradients"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["sigmoid", "tpo-l"])
def test_agrees_with_trl_on_triples(name):
    """Its last term is a mean over the target tokens of the batch: ours beside a loss on pairs."""
    golden = GOLDEN["tpo"]
    logps, mask = (jnp.asarray(golden[key], jnp.float32) for key in ("logps", "mask"))

    def mean(logps):
        chosen, rejected, _ = (logps * mask).sum(axis=-1)
        lengths = mask.sum(axis=-1)
        each = (
            cpo_loss(chosen, rejected, beta=0.3, label_smoothing=0.1)
            if name == "sigmoid"
            else simpo_loss(
                chosen / lengths[0], rejected / lengths[1], beta=0.3, gamma=0.5, label_smoothing=0.1
            )
        )
        return each.mean() + 0.7 * Weighted.tokens(nll_loss(logps[2]), mask[2]).mean()

    value, gradient = jax.value_and_grad(mean)(logps)
    assert float(value) == pytest.approx(golden[name]["loss"], rel=1e-6)
    np.testing.assert_allclose(gradient, golden[name]["gradient"], rtol=1e-5, atol=1e-7)
