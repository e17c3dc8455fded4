"""DNO: written numbers, the step of self-play that it fits, its hard limit, and the pairs of DNO-Prct."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.losses import (
    dno_loss,
    dno_prct_loss,
    dno_prct_pairs,
    dpo_loss,
    sample_win_rates,
    sppo_loss,
)

# log π = (-5, -6.5) and log π₀ = (-5.5, -6.2), win rates .8 and .3.
PAIR = jnp.float32(0.5), jnp.float32(-0.3), jnp.float32(0.8), jnp.float32(0.3)


def test_the_written_pair():
    value, gradient = jax.value_and_grad(lambda p: dno_loss(*p, beta=0.1))(PAIR)
    assert float(value) == pytest.approx(0.6841502208, rel=1e-6)
    np.testing.assert_allclose(gradient, [-0.0102469991, 0.0102469991, 0.0, 0.0], rtol=1e-5)
    hard, slope = jax.value_and_grad(lambda c: dno_prct_loss(c, PAIR[1], beta=0.1))(PAIR[0])
    assert float(hard) == pytest.approx(0.6539469673, rel=1e-6)
    assert float(slope) == pytest.approx(-0.0480010660, rel=1e-6)


CYC = np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]])
LAST, STEP = np.array([0.5, 0.3, 0.2]), 0.5


def population(logits, pairs):
    """The mean loss over both arms drawn from `pairs`."""
    rate = jnp.asarray(CYC @ LAST)
    ratio = jax.nn.log_softmax(logits) - jnp.log(jnp.asarray(LAST))
    i, j = (x.reshape(-1) for x in np.indices((3, 3)))
    losses = dno_loss(ratio[i], ratio[j], rate[i], rate[j], beta=STEP)
    return jnp.asarray(np.outer(pairs, pairs).reshape(-1)) @ losses


@pytest.mark.parametrize(
    "pairs", [LAST, np.ones(3) / 3, np.array([0.1, 0.1, 0.8])], ids=["own", "uniform", "other"]
)
def test_rests_at_the_step_of_self_play_whatever_the_pairs_are_drawn_from(pairs):
    with jax.enable_x64(True):
        best = jnp.log(jnp.asarray(LAST)) + CYC @ LAST / STEP
        written = [0.5766463487, 0.2228287504, 0.2005249009]
        np.testing.assert_allclose(jax.nn.softmax(best), written, atol=6e-11)
        np.testing.assert_allclose(jax.grad(population)(best, pairs), 0.0, atol=1e-10)
        start = jnp.log(jnp.asarray(LAST))
        assert float(population(start, pairs)) == pytest.approx(np.log(2), rel=1e-12)
        if pairs is LAST:
            assert float(population(best, pairs)) == pytest.approx(0.6908841244, abs=6e-11)
            np.testing.assert_allclose(
                jax.grad(population)(start, pairs), [-0.0099661710, 0.0104626760, -0.0004965049], atol=6e-11
            )


def test_the_step_improves_on_the_last_policy_as_much_as_is_promised():
    best = LAST * np.exp(CYC @ LAST / STEP)
    best /= best.sum()
    kl = best @ np.log(best / LAST)
    assert best @ CYC @ LAST == pytest.approx(0.5169409319, abs=6e-11)
    assert kl == pytest.approx(0.0165029301, abs=6e-11)
    # And nothing near it has a larger P(π ≻ π₀) - β KL(π‖π₀).
    random = np.random.default_rng(0)
    for _ in range(20):
        other = best * np.exp(0.1 * random.normal(size=3))
        other /= other.sum()
        assert other @ CYC @ LAST - STEP * other @ np.log(other / LAST) < best @ CYC @ LAST - STEP * kl


@jax.jit
def both_sides(chosen, rejected, wins, other, beta):
    ratios = chosen, rejected
    soft = dno_loss(*ratios, wins, other, beta=beta)
    mixture, last, first = 0.25, jnp.float32([-3.0, -4.0]), jnp.float32([-2.0, -6.0])
    unnormalised = jnp.stack(ratios) - (1 - mixture) * last - mixture * first
    shift = unnormalised + 1.7  # the normaliser is one number for both
    return {
        "the other way round": (dno_loss(rejected, chosen, other, wins, beta=beta), soft),
        "a sure win": (dno_loss(*ratios, wins + 40.0, other, beta=beta), dno_prct_loss(*ratios, beta=beta)),
        "prct": (dno_prct_loss(*ratios, beta=beta), dpo_loss(*ratios, beta=beta)),
        "an unnormalised mixture": (
            dno_loss(*shift, wins, other, beta=beta), dno_loss(*unnormalised, wins, other, beta=beta)
        ),
    }  # fmt: skip


NUMBERS, RATES = st.floats(-30, 30).map(np.float32), st.floats(0, 1).map(np.float32)


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, RATES, RATES)
def test_relatives(chosen, rejected, wins, other):
    for name, (found, expected) in both_sides(chosen, rejected, wins, other, 0.3).items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_near_the_last_policy_it_is_a_squared_loss_as_sppo_is():
    with jax.enable_x64(True):
        ratios, rates = 1e-3 * jnp.array([2.0, -1.0]), 0.5 + 1e-3 * jnp.array([3.0, 1.0])

        def gradient(ratios):
            return jax.grad(lambda r: dno_loss(*r, *rates, beta=1.0))(ratios)

        d = (ratios[0] - ratios[1]) - (rates[0] - rates[1])  # of (z - (r⁺ - r⁻))²/8
        np.testing.assert_allclose(gradient(ratios), [d / 4, -d / 4], rtol=1e-5)
        # SPPO's squares rest where each log-ratio is its win rate less 1/2: there this one rests too.
        at_rest = rates - 0.5
        np.testing.assert_allclose(
            jax.grad(lambda r: sppo_loss(*r, *rates, beta=1.0))(at_rest), 0.0, atol=1e-15
        )
        np.testing.assert_allclose(gradient(at_rest), 0.0, atol=1e-15)


def test_win_rates_leave_out_the_diagonal_and_empty_places():
    preference = jnp.float32([[9.0, 1.0, 0.0, 5.0], [0.0, 9.0, 0.5, 5.0], [1.0, 0.5, 9.0, 5.0], [5.0] * 4])
    rates = sample_win_rates(preference, jnp.array([1, 1, 1, 0]))
    np.testing.assert_allclose(rates, [0.5, 0.25, 0.75, 0.0])
    alone = sample_win_rates(preference, jnp.array([0, 1, 0, 0]))
    np.testing.assert_array_equal(alone, [0.0, 0.5, 0.0, 0.0])
    batched = sample_win_rates(jnp.stack([preference] * 2), jnp.array([[1, 1, 1, 0], [0, 1, 0, 0]]))
    np.testing.assert_array_equal(batched, jnp.stack([rates, alone]))
    # With every opponent there, SPPO's rate, which counts itself as 1/2, is (K - 1)/K of the way from 1/2.
    own = jnp.asarray(np.where(np.eye(3), 0.5, preference[:3, :3])).mean(axis=1)
    np.testing.assert_allclose(own - 0.5, (rates[:3] - 0.5) * 2 / 3, rtol=1e-6)


def test_pairs_are_good_enough_and_far_enough_apart():
    # The teacher's 5; the policy's 6, 5, 4, 3; an empty place that would win.
    scores, teacher = jnp.float32([5, 6, 5, 4, 3, 9]), jnp.array([1, 0, 0, 0, 0, 0])
    pairs = dno_prct_pairs(scores, teacher, jnp.array([1, 1, 1, 1, 1, 0]))
    expected = {
        (0, 4),  # teacher over student, by 2 (over the 4, by 1, is not enough)
        (1, 0),  # student over teacher, by 1
        (1, 2), (1, 3), (1, 4), (2, 3), (2, 4),  # student over student; the 4 is not good enough to be chosen
    }  # fmt: skip
    assert set(map(tuple, np.argwhere(np.asarray(pairs)).tolist())) == expected
    assert set(np.unique(pairs)) == {0.0, 1.0}
    restrictive = dno_prct_pairs(
        scores, teacher, jnp.ones(6), min_score=-9.0, teacher_margin=-9.0, student_margin=jnp.inf
    )
    np.testing.assert_array_equal(restrictive.sum(axis=1), [5, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(jnp.diagonal(restrictive), 0.0)
    both = dno_prct_pairs(jnp.stack([scores] * 2), jnp.stack([teacher] * 2), jnp.ones((2, 6)))
    np.testing.assert_array_equal(both[1], dno_prct_pairs(scores, teacher, jnp.ones(6)))
    assert float(both[0].sum()) > float(pairs.sum())


def test_shapes_that_disagree_are_refused_by_name():
    with pytest.raises(InputError, match=r"sample_win_rates: preference has shape \(3, 2\)"):
        inspect.unwrap(sample_win_rates)(jnp.zeros((3, 2)), jnp.ones(3))
    with pytest.raises(InputError, match=r"dno_prct_pairs: .*teacher has shape \(3, 1\)"):
        inspect.unwrap(dno_prct_pairs)(jnp.zeros(3), jnp.ones((3, 1)), jnp.ones(3))
