"""Contrastive preference learning against numbers worked by hand, its relatives, and the policy that it is to find."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import cpl_loss, cpo_loss, dpo_loss, nll_loss
from prefjax.types import Weighted

CHOSEN, REJECTED = jnp.float32([-1.0, -0.5, -0.8]), jnp.float32([-0.7, -1.2, -0.9])
ONES = jnp.ones(3)


@pytest.mark.parametrize(
    ("discount", "bias", "value", "chosen_slopes", "rejected_slopes"),
    [
        (1.0, 1.0, 0.6684596480, [-0.0487502604] * 3, [0.0487502604] * 3),
        (1.0, 0.5, 0.7391593390, [-0.0522484825] * 3, [0.0261242412] * 3),
        (
            0.9, 1.0, 0.6728083170, [-0.0489726446, -0.0440753802, -0.0396678421],
            [0.0489726446, 0.0440753802, 0.0396678421],
        ),
        (0.9, 0.5, 0.7362112823, None, None),
    ],
)  # fmt: skip
def test_written_numbers_and_slopes(discount, bias, value, chosen_slopes, rejected_slopes):
    def loss(chosen, rejected):
        return cpl_loss(chosen, rejected, ONES, ONES, temperature=0.1, discount=discount, bias=bias)

    found, slopes = jax.value_and_grad(loss, argnums=(0, 1))(CHOSEN, REJECTED)
    assert float(found) == pytest.approx(value, abs=1e-7)
    if chosen_slopes:
        np.testing.assert_allclose(slopes[0], chosen_slopes, rtol=1e-6)
        np.testing.assert_allclose(slopes[1], rejected_slopes, rtol=1e-6)


def test_what_a_factor_of_all_probabilities_does():
    for bias, value in ((1.0, 0.6684596480), (0.5, 0.6635971131)):
        loss = cpl_loss(CHOSEN + 1, REJECTED + 1, ONES, ONES, temperature=0.1, bias=bias)
        assert float(loss) == pytest.approx(value, abs=1e-7)


def test_a_tie_is_half_of_either_order():
    for bias, value in ((1.0, 0.6934596480), (0.5, 0.7591028956)):
        orders = (CHOSEN, REJECTED), (REJECTED, CHOSEN)
        losses = [cpl_loss(*pair, ONES, ONES, temperature=0.1, bias=bias) for pair in orders]
        assert float(sum(losses) / 2) == pytest.approx(value, abs=1e-7)


def test_the_variants_with_behaviour_cloning():
    """Three totals of the paper, written out; cloned from a policy whose log-probabilities are 0.2 less."""
    cloned = CHOSEN - 0.2, REJECTED - jnp.float32([0.2, 0.1, 0.0])
    steps = jnp.stack([CHOSEN, REJECTED])
    cloning = Weighted.tokens(nll_loss(steps), jnp.ones((2, 3))).mean()
    assert float(cloning) == pytest.approx(5.1 / 6, rel=1e-6)
    plain = cpl_loss(CHOSEN, REJECTED, ONES, ONES, temperature=0.1)
    assert float(plain + cloning) == pytest.approx(0.6684596480 + 0.85, rel=1e-6)
    ratios = CHOSEN - cloned[0], REJECTED - cloned[1]
    with_kl = cpl_loss(*ratios, ONES, ONES, temperature=0.2, bias=0.75)
    assert float(with_kl) == pytest.approx(np.log1p(np.exp(-0.2 * (0.6 - 0.75 * 0.3))), rel=1e-6)


NUMBERS = st.lists(st.floats(-9, 0, width=32), min_size=4, max_size=4)


@jax.jit
def relatives(chosen, rejected, alpha, bias, constant):
    ones = jnp.ones(4)
    sums = chosen.sum(), rejected.sum()
    one_step = cpl_loss(chosen[:, None], rejected[:, None], *[jnp.ones((4, 1))] * 2, temperature=alpha)
    whole = cpl_loss(chosen, rejected, ones, ones, temperature=alpha)
    return [
        (one_step, dpo_loss(chosen, rejected, beta=alpha)),
        (one_step, cpo_loss(chosen, rejected, beta=alpha)),
        (one_step, dpo_loss(chosen - constant, rejected - constant, beta=alpha)),
        (whole, dpo_loss(*sums, beta=alpha)),
        # Only the first step counts where nothing later does.
        (
            cpl_loss(chosen, rejected, ones, ones, temperature=alpha, discount=0.0, bias=bias),
            jax.nn.softplus(alpha * (bias * rejected[0] - chosen[0])),
        ),
        # λ < 1: a constant c more in every log-probability is α c T (1 - λ) more in the logit.
        (
            cpl_loss(chosen + constant, rejected + constant, ones, ones, temperature=alpha, bias=bias),
            jax.nn.softplus(alpha * (bias * sums[1] - sums[0] - constant * 4 * (1 - bias))),
        ),
    ]


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0.01, 2), st.floats(0.05, 1), st.floats(-3, 3))
def test_relatives(chosen, rejected, alpha, bias, constant):
    for one, other in relatives(*map(jnp.float32, (chosen, rejected, alpha, bias, constant))):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("garbage", [0.0, 77.0, np.nan, np.inf])
def test_steps_count_from_the_first_that_is_there_wherever_padding_stands(garbage):
    settings = {"temperature": 0.1, "discount": 0.9, "bias": 0.5}
    laid = np.full((2, 6), garbage, np.float32)
    masks = np.zeros((2, 6), np.float32)
    for row, places, logps in ((0, [0, 1, 2], CHOSEN), (1, [1, 3, 5], REJECTED)):
        laid[row, places], masks[row, places] = logps, 1
    arrays = [jnp.asarray(x) for x in (*laid, *masks)]
    value, slopes = jax.value_and_grad(lambda c, r: cpl_loss(c, r, *arrays[2:], **settings), argnums=(0, 1))(
        *arrays[:2]
    )
    assert float(value) == pytest.approx(0.7362112823, abs=1e-7)
    for slope, mask in zip(slopes, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(slope) != 0, mask == 1)


def test_the_policy_of_maximum_entropy_control_is_where_it_comes_to_rest():
    """One state, three actions, all pairs of segments of two steps, labels by the regret model: enumerated."""
    advantage, alpha = np.array([0.3, -0.1, 0.05]), 0.2
    policy = np.exp(advantage / alpha) / np.exp(advantage / alpha).sum()
    np.testing.assert_allclose(policy, [0.7033139760, 0.0951831961, 0.2015028278], atol=1e-9)
    segments = np.array(list(itertools.product(range(3), repeat=2)))
    pairs = np.array(list(itertools.product(range(9), repeat=2)))
    gamma = 0.9
    summed = (advantage[segments] * [1, gamma]).sum(axis=1)
    wins = 1 / (1 + np.exp(summed[pairs[:, 1]] - summed[pairs[:, 0]]))
    with jax.enable_x64(True):
        ones = jnp.ones((81, 2))

        def mean(logits, bias):
            logps = jax.nn.log_softmax(logits)[segments]
            sides = logps[pairs[:, 0]], logps[pairs[:, 1]]
            loss = cpl_loss(*sides, ones, ones, temperature=alpha, discount=gamma, bias=bias)
            return jnp.sum(wins * loss)

        slope = jax.jit(jax.grad(mean))
        np.testing.assert_allclose(slope(jnp.log(policy), 1.0), 0.0, atol=1e-10)
        assert np.abs(slope(jnp.log(policy), 0.5)).max() > 1e-2  # biased
        assert np.abs(slope(jnp.zeros(3), 1.0)).max() > 1e-2
