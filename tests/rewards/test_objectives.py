"""Many objectives: heads by ridge regression, verbosity taken out of them, the gate; ranks against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from prefjax.losses import rating_loss
from prefjax.rewards import (
    debiased_objectives,
    gated_reward,
    mean_reward,
    rank_correlation,
    ridge_heads,
    verbosity_penalties,
)
from prefjax.rewards.objectives import PENALTIES

SMALL = st.integers(-3, 3).map(float)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (2, 9), elements=SMALL), arrays(np.float32, (2, 9), elements=SMALL))
def test_rank_correlation_is_scipys_ties_and_all(one, other):
    found = rank_correlation(jnp.asarray(one), jnp.asarray(other))
    for i in range(2):
        if np.ptp(one[i]) and np.ptp(other[i]):
            assert float(found[i]) == pytest.approx(stats.spearmanr(one[i], other[i]).statistic, abs=1e-6)
        else:
            assert np.isnan(found[i])
    stretched = rank_correlation(jnp.exp(jnp.asarray(one)), jnp.asarray(other))
    np.testing.assert_allclose(stretched, found, atol=1e-6)


def test_rank_correlation_of_the_card_and_of_what_has_no_rank():
    weights, reports = jnp.float32([100, -40, 20, 0, -80]), jnp.float32([90, -60, 10, 10, -50])
    assert float(rank_correlation(weights, reports)) == pytest.approx(0.872082, abs=1e-6)
    assert np.isnan(rank_correlation(weights.at[0].set(np.nan), reports))
    assert np.isnan(rank_correlation(jnp.zeros(0), jnp.zeros(0)))
    random = np.random.default_rng(0).normal(size=(2, 200_000))
    large = rank_correlation(*jnp.float32(random))
    assert float(large) == pytest.approx(stats.spearmanr(*random.astype(np.float32)).statistic, abs=1e-4)


def test_heads_of_the_card_and_a_step_of_their_loss():
    hidden = jnp.float32([[1, 0], [1, 1], [0, 2]])
    ratings = jnp.float32([[1, np.nan], [2, 3], [np.nan, 4]])
    mask = ~jnp.isnan(ratings)
    heads = ridge_heads(hidden, ratings, mask, penalty=0.5)
    np.testing.assert_allclose(heads, [[0.909091, 0.727273], [0.758621, 1.862069]], atol=2e-6)

    def objective(heads):
        return rating_loss(hidden @ heads.T, ratings, mask).sum() + 0.5 * (heads**2).sum()

    np.testing.assert_allclose(jax.grad(objective)(heads), 0.0, atol=1e-5)
    # A rating that is nan must not come back through the gradient.
    assert np.all(np.isfinite(jax.grad(objective)(jnp.zeros((2, 2)))))


def test_the_gate_of_the_card():
    logits, objectives = jnp.float32([2, 0, -1]), jnp.float32([0.8, 0.5, 0.6])
    for temperature, gate in ((10.0, [0.390694, 0.319873, 0.289433]), (1.0, [0.843795, 0.114195, 0.042010])):
        weights = jax.grad(lambda r, t=temperature: gated_reward(r, logits, temperature=t))(objectives)
        np.testing.assert_allclose(weights, gate, atol=6e-7)
    debiased = debiased_objectives(objectives, objectives[2], jnp.float32([0.4, 0.1, 1.0]))
    np.testing.assert_allclose(debiased, [0.56, 0.44, 0.0], atol=1e-6)
    reward = gated_reward(debiased, logits)
    assert float(reward) == pytest.approx(0.359533, abs=6e-7)
    raw = jax.grad(lambda r: gated_reward(debiased_objectives(r, r[2], jnp.float32([0.4, 0.1, 1])), logits))
    np.testing.assert_allclose(raw(objectives), [0.390694, 0.319873, -0.188265], atol=6e-7)
    assert float(gated_reward(debiased, logits, scale=3.0)) == pytest.approx(3 * float(reward), rel=1e-6)
    np.testing.assert_allclose(gated_reward(objectives, jnp.zeros(3)), mean_reward(objectives), rtol=1e-6)


def test_the_least_penalty_of_the_grid_that_is_enough():
    random = np.random.default_rng(0)
    verbosity = random.normal(size=400)
    objectives = np.stack(
        [
            0.6 * verbosity + 0.8 * random.normal(size=400),
            random.normal(size=400),
            -verbosity,
            5 * verbosity,
            verbosity,
        ],
        axis=-1,
    )
    found = np.asarray(verbosity_penalties(jnp.float32(objectives), jnp.float32(verbosity)))

    def by_scipy(column):
        for penalty in PENALTIES:
            if stats.spearmanr(column - penalty * verbosity, verbosity).statistic <= 0.03:
                return penalty
        return 1.0

    expected = [by_scipy(objectives[:, k]) for k in range(4)] + [1.0]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert 0.4 < found[0] < 0.75
    assert (found[2], found[3]) == (0.0, 1.0)
    left = debiased_objectives(
        jnp.float32(objectives), jnp.float32(verbosity), jnp.broadcast_to(found[None], objectives.shape)
    )
    np.testing.assert_array_equal(left[:, 4], 0.0)
    assert float(rank_correlation(left[:, 0], jnp.float32(verbosity))) <= 0.03
