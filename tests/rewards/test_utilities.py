"""Whether preferences behave like a utility: written numbers, what a gauge leaves alone, simulated agents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.rewards import (
    counted_preference,
    cycle_probability,
    expected_utility,
    normalised_utilities,
    preference_confidence,
    thurstone_probability,
)

P = st.floats(0, 1, width=32)


def test_written_numbers():
    np.testing.assert_allclose(
        counted_preference(jnp.asarray([7, 7]), jnp.asarray([10, 11]), jnp.asarray([3, 2])), [0.425, 0.40]
    )
    assert np.isnan(counted_preference(jnp.asarray(0), jnp.asarray(0), jnp.asarray(0)))
    means, _ = normalised_utilities(jnp.float32([0.3, 1, -0.5]), jnp.ones(3))
    np.testing.assert_allclose(means, [0.044412, 0.977054, -1.021466], atol=2e-6)
    cycles = cycle_probability(*jnp.float32([[0.9, 0.5, 1.0], [0.8, 0.5, 1.0], [0.3, 0.5, 0.0]]))
    np.testing.assert_allclose(cycles, [0.23, 0.25, 0.0], atol=1e-7)
    slope = jax.grad(cycle_probability)(jnp.float32(0.9), jnp.float32(0.8), jnp.float32(0.3))
    assert float(slope) == pytest.approx(0.8 * 0.3 - 0.2 * 0.7, abs=1e-6)
    worth = expected_utility(jnp.float32([1, -1, 0]), jnp.float32([0.5, 0.25, 0.25]))
    assert float(worth) == pytest.approx(0.25)
    np.testing.assert_allclose(
        preference_confidence(jnp.float32([0.5, 1, 0, 0.9])), [0, 1, 1, 0.8], atol=1e-6
    )
    assert float(jax.grad(preference_confidence)(jnp.float32(0.5))) == 0.0


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (4,), elements=st.floats(-5, 5, width=32)), st.floats(0.25, 4, width=32))
def test_a_gauge_changes_no_preference(means, scale):
    variances = jnp.float32([0.5, 1.0, 0.1, 2.0])
    if np.std(means) < 1e-2:
        return
    first, second = jnp.asarray([0, 0, 0, 1, 1, 2]), jnp.asarray([1, 2, 3, 2, 3, 3])

    def preferences(means, variances):
        return thurstone_probability(means[first], means[second], variances[first], variances[second])

    before = preferences(jnp.asarray(means), variances)
    normalised = normalised_utilities(jnp.asarray(means), variances)
    np.testing.assert_allclose(preferences(*normalised), before, atol=1e-4)
    assert float(normalised[0].mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(normalised[0].std(ddof=1)) == pytest.approx(1.0, rel=1e-4)
    np.testing.assert_allclose(
        preferences(scale * jnp.asarray(means) + 3, scale**2 * variances), before, atol=1e-4
    )
    again = normalised_utilities(scale * jnp.asarray(means) + 3, scale**2 * variances)
    np.testing.assert_allclose(again[0], normalised[0], atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(P, P, P)
def test_a_cycle_is_as_probable_backwards_and_never_more_than_certain(one, two, three):
    cycle = float(cycle_probability(*jnp.float32([one, two, three])))
    backwards = float(cycle_probability(*jnp.float32([1 - three, 1 - two, 1 - one])))
    assert cycle == pytest.approx(backwards, abs=1e-6)
    assert 0 <= cycle <= 1
    a, b, c = counted_preference(
        jnp.float32([one, two, three]), 1 - jnp.float32([one, two, three]), jnp.zeros(3)
    )
    assert float(a + b + c) == pytest.approx(one + two + three, abs=1e-5)


@pytest.mark.parametrize(("spread", "expected"), [(0.3, 0.022465), (1.0, 0.129354), (3.0, 0.226117)])
def test_cycles_of_a_noisy_utility(spread, expected):
    """Numbers by numerical integration; here by two hundred thousand triads."""
    means = jax.random.normal(jax.random.key(0), (3, 200_000))
    variances = jnp.full_like(means, spread**2)
    p = thurstone_probability(means, jnp.roll(means, -1, axis=0), variances, variances)
    assert float(cycle_probability(*p).mean()) == pytest.approx(expected, rel=0.02)
