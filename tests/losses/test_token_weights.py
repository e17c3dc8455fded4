"""WPO's weights and LD-DPO's sums: written numbers, bounds, limits, and TRL's own."""

import inspect
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.losses import dpo_loss, ipo_loss, ld_dpo_logp, wpo_weights

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/losses/trl_links.json").read_text())


def of_logits(logits, tokens):
    logps = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logps, tokens[..., None], axis=-1)[..., 0]
    return chosen, jax.nn.logsumexp(2 * logits, axis=-1) - 2 * jax.nn.logsumexp(logits, axis=-1)


def test_the_worked_completion_has_a_weight_above_one():
    logps, squares = of_logits(jnp.float32([[2.0, 1.0, 0.0], [0.5, 0.5, 0.5]]), jnp.array([0, 2]))
    np.testing.assert_allclose(logps, [-0.40760596, -1.09861229], atol=1e-7)
    np.testing.assert_allclose(squares, [-0.67228030, -1.09861229], atol=1e-6)
    assert float(wpo_weights(logps, squares, jnp.ones(2))) == pytest.approx(1.1414931293, rel=1e-6)
    assert float(wpo_weights(logps, squares, jnp.ones(2), max_weight=1.0)) == 1.0
    # A uniform token counts for nothing, and neither does a completion without tokens.
    assert float(wpo_weights(logps, squares, jnp.array([0, 1]))) == pytest.approx(1.0, rel=1e-6)
    assert float(wpo_weights(logps, squares, jnp.zeros(2))) == 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.1, 20))
def test_weights_stay_below_their_bound_and_the_greedy_ones_below_one(seed, spread):
    logits = np.float32(np.random.default_rng(seed).normal(size=(4, 9)) * spread)
    tokens = jnp.asarray(logits.argmax(-1))  # the likeliest tokens
    logps, squares = of_logits(jnp.asarray(logits), tokens)
    weight = float(wpo_weights(logps, squares, jnp.ones(4)))
    assert 1 - 1e-5 <= weight <= (1 + 3) / 2 + 1e-5
    greedy = wpo_weights(logps, jax.nn.log_softmax(logits).max(axis=-1), jnp.ones(4))
    assert float(greedy) == pytest.approx(1.0, rel=1e-5)
    other = jnp.asarray(logits.argmin(-1))
    assert float(wpo_weights(of_logits(jnp.asarray(logits), other)[0], squares, jnp.ones(4))) <= 1 + 1e-5


def test_the_bound_is_reached():
    # One token with probability 1/√V, the others alike.
    p = np.array([1 / 3] + [(1 - 1 / 3) / 8] * 8)
    logps, squares = of_logits(jnp.float32(np.log(p))[None], jnp.array([0]))
    assert float(wpo_weights(logps, squares, jnp.ones(1))) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e4, np.nan, np.inf])
def test_padding_and_gradients_of_weights_are_nothing(garbage):
    logps, squares = jnp.float32([[-1.0, -2.0, garbage]]), jnp.float32([[-0.5, -0.25, garbage]])
    mask = jnp.array([[1, 1, 0]])
    weight, gradient = jax.value_and_grad(lambda x: wpo_weights(x, squares, mask).sum())(logps)
    assert float(weight) == pytest.approx(np.exp(-2.25 / 2), rel=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)
    total, slope = jax.value_and_grad(lambda x: ld_dpo_logp(x, mask, jnp.array([1]), alpha=0.5).sum())(logps)
    assert float(total) == -2.0
    np.testing.assert_array_equal(slope, [[1.0, 0.5, 0.0]])


def test_weights_are_finite_whatever_they_are_given():
    weights = wpo_weights(jnp.float32([[1e4], [-1e4]]), jnp.zeros((2, 1)), jnp.ones((2, 1)))
    assert np.all(np.isfinite(weights))
    np.testing.assert_array_equal(weights[1], 0.0)
    with pytest.raises(InputError, match=r"wpo_weights: .*mask has shape \(2,\)"):
        inspect.unwrap(wpo_weights)(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(2))


@pytest.mark.parametrize(("alpha", "written"), [(0.0, -3.5), (0.5, -5.75), (1.0, -8.0)])
def test_the_worked_tail_counts_alpha(alpha, written):
    logps = jnp.float32([-1.0, -2.0, -0.5, -1.5, -3.0])
    assert float(ld_dpo_logp(logps, jnp.ones(5), jnp.float32(3.0), alpha=alpha)) == written
    # Of the shorter completion it is the sum.
    assert float(ld_dpo_logp(logps, jnp.ones(5), jnp.float32(7.0), alpha=alpha)) == -8.0
    # A prompt in front of it, masked out, counts no places.
    shifted = ld_dpo_logp(jnp.pad(logps, (2, 0)), jnp.pad(jnp.ones(5), (2, 0)), jnp.float32(3.0), alpha=alpha)
    assert float(shifted) == written


def golden(*names):
    return (jnp.asarray(GOLDEN["pairs"][name], jnp.float32) for name in names)


def masks():
    (lengths,) = golden("lengths")
    return lengths, (np.arange(6) < np.asarray(lengths)[..., None]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "loss"), [("wpo sigmoid beta=0.1", dpo_loss), ("wpo ipo beta=0.5", ipo_loss)]
)
def test_wpo_agrees_with_trl(name, loss):
    logps, squares, reference = golden("logps", "log_sum_squares", "reference_logps")
    lengths, mask = masks()
    by = jnp.asarray(np.ones_like(lengths)) if loss is dpo_loss else lengths  # TRL's IPO averages
    beta = 0.1 if loss is dpo_loss else 0.5

    @jax.jit
    def losses(logps):
        ratio = ((logps - reference) * mask).sum(axis=-1) / by
        weights = wpo_weights(logps, squares, jnp.asarray(mask))
        return weights[:, 0] * weights[:, 1] * loss(ratio[:, 0], ratio[:, 1], beta=beta)

    np.testing.assert_allclose(losses(logps), GOLDEN["losses"][name], rtol=2e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: losses(x).sum()))(logps)
    np.testing.assert_allclose(gradient[..., 0], GOLDEN["gradients"][name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "alpha", "beta"), [("ld alpha=0.5", 0.5, 0.1), ("ld alpha=0", 0.0, 0.5)])
def test_ld_dpo_agrees_with_trl(name, alpha, beta):
    logps, reference = golden("logps", "reference_logps")
    lengths, mask = masks()

    @jax.jit
    def losses(logps):
        ratio = [ld_dpo_logp(x, jnp.asarray(mask), lengths[:, ::-1], alpha=alpha) for x in (logps, reference)]
        ratio = ratio[0] - ratio[1]
        return dpo_loss(ratio[:, 0], ratio[:, 1], beta=beta)

    np.testing.assert_allclose(losses(logps), GOLDEN["losses"][name], rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: losses(x).sum()))(logps)
    # TRL's padding has gradients too, of log-probabilities that its model leaves at 0.
    theirs = np.array(GOLDEN["gradients"][name]) * mask
    np.testing.assert_allclose(gradient, theirs, rtol=1e-5, atol=1e-6)
