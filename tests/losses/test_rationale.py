"""Rationales beside pairs: the table of both forms, limits, and where they rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    dpo_loss,
    orpo_loss,
    rationale_dpo_loss,
    rationale_orpo_loss,
    rationale_sigmoid_term,
    rationale_term,
)


@pytest.mark.parametrize(
    ("term", "gamma", "value", "slope", "total"),
    [
        (rationale_term, 0.1, 4.0, -0.1, 4.6209570478),
        (rationale_sigmoid_term, 0.1, 4.0181499279, -0.0982013790, 4.6391069757),
        (rationale_term, 0.001, 0.04, -0.001, 0.6609570478),
        (rationale_sigmoid_term, 0.001, 0.7133471672, -0.00050999867, 1.3343042150),
    ],
)
def test_the_written_table(term, gamma, value, slope, total):
    with jax.enable_x64(True):
        pair, rationale = jnp.array([1.0, -0.5]), jnp.array(-40.0)
        found = jax.value_and_grad(lambda r: term(r, gamma=gamma))(rationale)
        assert float(found[0]) == pytest.approx(value, abs=6e-11)
        assert float(found[1]) == pytest.approx(slope, abs=6e-11)
        assert float(dpo_loss(*pair, beta=0.1) + found[0]) == pytest.approx(total, abs=6e-11)
        if term is rationale_term:
            whole = rationale_dpo_loss(*pair, rationale, beta=0.1, gamma=gamma)
            assert float(whole) == pytest.approx(total, abs=6e-11)
            gradient = jax.grad(lambda p: rationale_dpo_loss(*p, rationale, beta=0.1, gamma=gamma))(pair)
            np.testing.assert_allclose(gradient, [-0.0462570155, 0.0462570155], atol=6e-11)


def test_the_written_orpo():
    averages = jnp.float32(-2.0), jnp.float32(-2.3125), jnp.float32(-2.0)
    simple = rationale_orpo_loss(*averages, beta=0.1, gamma=1.0)
    assert float(simple) == pytest.approx(4.0531875521, rel=1e-6)
    sigmoid = orpo_loss(*averages[:2], beta=0.1) + rationale_sigmoid_term(averages[2], gamma=1.0)
    assert float(sigmoid) == pytest.approx(4.1801155631, rel=1e-6)
    slope = jax.grad(lambda a: rationale_orpo_loss(*averages[:2], a, beta=0.1, gamma=0.7))(averages[2])
    assert float(slope) == pytest.approx(-0.7, rel=1e-6)


@jax.jit
def both_sides(chosen, rejected, rationale, gamma):
    plain, odds = (
        dpo_loss(chosen, rejected, beta=0.3),
        orpo_loss(-jnp.abs(chosen), -jnp.abs(rejected), beta=0.3),
    )
    far = -1e3 / gamma
    return {
        "no rationale": (rationale_dpo_loss(chosen, rejected, rationale * 0, beta=0.3, gamma=gamma), plain),
        "no weight": (rationale_dpo_loss(chosen, rejected, rationale, beta=0.3, gamma=0.0), plain),
        "no weight, in a sigmoid": (rationale_sigmoid_term(rationale, gamma=0.0), jnp.log(2.0)),
        "the sum": (
            rationale_dpo_loss(chosen, rejected, rationale, beta=0.3, gamma=gamma),
            plain + rationale_term(rationale, gamma=gamma),
        ),
        "no weight, orpo": (
            rationale_orpo_loss(-jnp.abs(chosen), -jnp.abs(rejected), rationale, beta=0.3, gamma=0.0), odds
        ),
        "far": (rationale_sigmoid_term(far, gamma=gamma), rationale_term(far, gamma=gamma)),
        "near": (
            rationale_sigmoid_term(1e-3 * rationale, gamma=0.01),
            rationale_term(1e-3 * rationale, gamma=0.01) / 2 + jnp.log(2.0),
        ),
        "the slope's weight": (
            jax.grad(lambda r: rationale_sigmoid_term(r, gamma=gamma))(rationale),
            -gamma * jax.nn.sigmoid(-gamma * rationale),
        ),
    }  # fmt: skip


NUMBERS = st.floats(-20, 20).map(np.float32)


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(-300, 0).map(np.float32), st.floats(1e-3, 1).map(np.float32))
def test_relatives(chosen, rejected, rationale, gamma):
    for name, (found, expected) in both_sides(chosen, rejected, rationale, gamma).items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_paper_s_term_rests_at_the_distribution_of_rationales_and_the_sigmoid_one_nearby():
    wins = jnp.float32([0.7, 0.3])  # how often each of two rationales of one token is given

    def slope(term, gamma, policy):
        def mean(logits):
            return wins @ term(jax.nn.log_softmax(logits), gamma=gamma)

        return jax.grad(mean)(jnp.log(policy))

    np.testing.assert_allclose(slope(rationale_term, 1.0, wins), 0.0, atol=1e-7)
    at_data = slope(rationale_sigmoid_term, 1.0, wins)
    assert float(at_data[0]) > 1e-3  # the likelier one is pushed down: it is favoured less
    assert float(slope(rationale_sigmoid_term, 1.0, jnp.float32([0.5, 0.5]))[0]) < -1e-3
