"""Offsets inside the sigmoid: written numbers, optima, and the losses that they are when nothing is offset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    bradley_terry_loss,
    dpo_loss,
    dpop_loss,
    iterated_dpo_loss,
    length_regularised_dpo_loss,
    odpo_loss,
    simpo_loss,
)
from tests.losses.test_preference import minimiser

# The two pairs of test_preference.py, β = 0.1, of lengths 6 and 7, and 10 and 8; averages of the chosen ones -2.
CHOSEN, REJECTED = np.array([1.0, -1.0]), np.array([-0.5, 1.0])
LENGTHS = np.array([6.0, 10.0]), np.array([7.0, 8.0])


def odpo(chosen, rejected):
    return odpo_loss(chosen, rejected, beta=0.1, offset=0.2)


def r_dpo(chosen, rejected):
    lengths = (jnp.asarray(length) for length in LENGTHS)
    return length_regularised_dpo_loss(chosen, rejected, *lengths, beta=0.1, alpha=0.05)


def dpop(chosen, rejected):
    return dpop_loss(chosen, rejected, beta=0.1, penalty=5.0)


def iterated(chosen, rejected):
    return iterated_dpo_loss(chosen, rejected, jnp.full_like(chosen, -2.0), beta=0.1, alpha=0.5)


KNOWN = {  # values; gradients are -βσ(-z), z after the offset, and 1 + λ times that where DPOP's penalty counts
    "odpo": (odpo, [0.71845965, 0.91301525], [-0.05124974, -0.05986877], [0.05124974, 0.05986877]),
    "r-dpo": (r_dpo, [0.64439666, 0.74439666], [-0.04750208, -0.05249792], [0.04750208, 0.05249792]),
    "dpop": (dpop, [0.62095705, 1.10318605], [-0.04625702, -0.40091266], [0.04625702, 0.06681878]),
    "iterated": (iterated, [1.62095705, 1.79813887], [-0.04625702, -0.0549834], [0.04625702, 0.0549834]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_two_worked_pairs_values_and_gradients(name):
    loss, values, by_chosen, by_rejected = KNOWN[name]
    with jax.enable_x64(True):
        pairs = jnp.asarray(CHOSEN), jnp.asarray(REJECTED)
        gradients = jax.grad(lambda p: loss(*p).sum())(pairs)
        np.testing.assert_allclose(loss(*pairs), values, atol=6e-9)
    np.testing.assert_allclose(gradients[0], by_chosen, atol=6e-9)
    np.testing.assert_allclose(gradients[1], by_rejected, atol=6e-9)


def test_imitation_has_the_gradient_alpha_in_the_average():
    slope = jax.grad(lambda a: iterated_dpo_loss(a, a, a, beta=0.1, alpha=0.25))(jnp.float32(-2.0))
    assert float(slope) == pytest.approx(-0.25, rel=1e-6)  # the log-ratios are equal: they cancel


@pytest.mark.parametrize("offset", [-0.7, 0.0, 0.4, 3.0])
@pytest.mark.parametrize("p", [0.5, 0.8])
def test_the_optimum_of_an_offset_is_its_quadratic_s_root(p, offset):
    k = np.exp(-offset)
    u = (2 * p - 1 + np.sqrt((2 * p - 1) ** 2 + 4 * p * (1 - p) * k**2)) / (2 * (1 - p) * k)
    with jax.enable_x64(True):
        found = minimiser(lambda c, r: odpo_loss(c, r, beta=0.1, offset=offset), p)
    assert found == pytest.approx(10 * np.log(u), abs=1e-6)
    if p == 0.5:
        assert found == pytest.approx(0.0, abs=1e-6)
    elif offset == 0.0:
        assert found == pytest.approx(10 * np.log(4), abs=1e-6)
    elif offset == 3.0:
        assert found / 10 == pytest.approx(3 + np.log(0.6 / 0.2), abs=0.005)


def test_length_regularised_dpo_rests_at_the_reward_less_its_price_of_length():
    reward, lengths, alpha, beta = np.array([0.3, -0.2, 0.9]), np.array([3.0, 9.0, 5.0]), 0.1, 0.5
    first, second = (np.array(arms) for arms in ([0, 0, 1], [1, 2, 2]))
    with jax.enable_x64(True):
        reference = jnp.array([0.5, 0.3, 0.2])
        optimum = jnp.log(reference) + (reward - alpha * lengths) / beta

        def of_pairs(logits):
            ratio = jax.nn.log_softmax(logits) - jnp.log(reference)

            def one_way(a, b):
                arguments = ratio[a], ratio[b], jnp.asarray(lengths[a]), jnp.asarray(lengths[b])
                return length_regularised_dpo_loss(*arguments, beta=beta, alpha=alpha)

            wins = jax.nn.sigmoid(reward[first] - reward[second])
            return jnp.sum(wins * one_way(first, second) + (1 - wins) * one_way(second, first))

        np.testing.assert_allclose(jax.grad(of_pairs)(optimum), 0.0, atol=1e-12)
        assert float(jnp.abs(jax.grad(of_pairs)(jnp.log(reference))).max()) > 1e-2


def test_dpop_rests_where_dpo_does_if_neither_answer_loses():
    with jax.enable_x64(True):
        rho = jnp.array([13.8629436 + 1, 1.0])  # logit(.8)/.1 apart, both above 0

        def expected(rho):
            there, back = (dpop_loss(*rho[jnp.array(o)], beta=0.1, penalty=5.0) for o in ([0, 1], [1, 0]))
            return 0.8 * there + 0.2 * back

        np.testing.assert_allclose(jax.grad(expected)(rho), 0.0, atol=1e-9)
        # Both lower by 20: DPO would not care, DPOP pulls both up.
        assert np.all(np.asarray(jax.grad(expected)(rho - 20.0)) < -1e-3)


NUMBERS = st.floats(-30, 30).map(np.float32)
SCALES = st.floats(0.02, 2).map(np.float32)


@jax.jit
def both_sides(chosen, rejected, shift, beta, penalty):
    """What the docstrings say is the same, by name: what is found, and what is expected."""
    plain = dpo_loss(chosen, rejected, beta=beta)
    offset = odpo_loss(chosen, rejected, beta=beta, offset=shift)
    lengths = jnp.float32(7.0), jnp.float32(3.0)

    def regularised(*lengths, alpha):
        return length_regularised_dpo_loss(chosen, rejected, *lengths, beta=beta, alpha=alpha)

    penalised = dpop_loss(chosen, rejected, beta=beta, penalty=penalty)
    lost = beta * penalty * jnp.maximum(0.0, -chosen)
    raised = jnp.abs(chosen)
    return {
        "odpo without an offset": (odpo_loss(chosen, rejected, beta=beta, offset=0.0), plain),
        "bradley_terry": (offset, bradley_terry_loss(beta * chosen, beta * rejected, margin=shift)),
        "simpo": (offset, simpo_loss(chosen, rejected, beta=beta, gamma=shift)),
        "lengths as an offset": (regularised(*lengths, alpha=-shift / 4), offset),
        "no price of length": (regularised(*lengths, alpha=0.0), plain),
        "one length": (regularised(lengths[0], lengths[0], alpha=shift), plain),
        "no penalty": (dpop_loss(chosen, rejected, beta=beta, penalty=0.0), plain),
        "a penalty as an offset": (penalised, odpo_loss(chosen, rejected, beta=beta, offset=lost)),
        "nothing lost": (
            dpop_loss(raised, rejected, beta=beta, penalty=penalty),
            dpo_loss(raised, rejected, beta=beta),
        ),
        "no imitation": (iterated_dpo_loss(chosen, rejected, shift, beta=beta, alpha=0.0), plain),
    }


@settings(max_examples=30, deadline=None)
@given(chosen=NUMBERS, rejected=NUMBERS, shift=NUMBERS, beta=SCALES, penalty=SCALES)
def test_relatives(chosen, rejected, shift, beta, penalty):
    for name, (found, expected) in both_sides(chosen, rejected, shift / 10, beta, penalty).items():
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=name)


def test_an_offset_for_each_pair_is_each_pair_s_own():
    pairs, offsets = (jnp.float32([0.3, -1.0]), jnp.float32([0.1, 0.4])), jnp.float32([0.0, 2.0])
    both = odpo_loss(*pairs, beta=0.5, offset=offsets)
    for i in range(2):
        alone = odpo_loss(pairs[0][i], pairs[1][i], beta=0.5, offset=float(offsets[i]))
        assert float(both[i]) == pytest.approx(float(alone), rel=1e-6)


def test_iterated_dpo_lies_between_dpo_and_imitation():
    # Two answers of one token, the reference uniform, the first wins with probability .8, β = 1/2.
    with jax.enable_x64(True):

        def best(alpha):
            def slope(logit):
                logp = jax.nn.log_softmax(jnp.stack([logit, jnp.zeros_like(logit)]))
                ratio = logp + jnp.log(2.0)
                there = iterated_dpo_loss(ratio[0], ratio[1], logp[0], beta=0.5, alpha=alpha)
                return 0.8 * there + 0.2 * iterated_dpo_loss(
                    ratio[1], ratio[0], logp[1], beta=0.5, alpha=alpha
                )

            low, high, gradient = -10.0, 10.0, jax.jit(jax.grad(slope))
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if gradient(jnp.float64(middle)) < 0 else (low, middle)
            return low

        dpo, some, much, imitation = best(0.0), best(0.5), best(5.0), np.log(4)
    assert dpo == pytest.approx(np.log(4) / 0.5, abs=1e-6)
    assert imitation < much < some < dpo
