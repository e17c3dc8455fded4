"""What all rewards so far were like: PAR's stateful baselines, and parts that make the whole."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefjax.checks import InputError
from prefjax.rewards import (
    clipped_rewards,
    length_penalised_rewards,
    merged_running_rewards,
    min_max_rewards,
    running_rewards,
    standardised_rewards,
)


def test_the_card():
    state = merged_running_rewards(running_rewards(jnp.float32([1, 2, 3])), running_rewards(jnp.float32([5])))
    assert (float(state.number), float(state.mean)) == (4.0, 2.75)
    assert float(state.squares / state.number) == pytest.approx(2.1875)
    five, spread = jnp.float32(5), state.deviation()
    assert float(standardised_rewards(five, state.mean, spread)) == pytest.approx(1.521278, abs=1e-6)
    clipped = clipped_rewards(five, state.mean - spread, state.mean + spread)
    assert float(clipped) == pytest.approx(4.229020, abs=1e-6)
    assert float(min_max_rewards(jnp.float32(4), state.lowest, state.highest)) == 0.75
    assert float(length_penalised_rewards(jnp.float32(0), jnp.asarray(350))) == pytest.approx(-0.5, rel=1e-6)
    np.testing.assert_array_equal(
        length_penalised_rewards(jnp.float32([2, 2]), jnp.asarray([300, 0])), [2.0, 2.0]
    )


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (8,), elements=st.floats(-100, 100, width=32) | st.just(np.nan)), st.integers(0, 8))
def test_the_parts_are_the_whole_however_they_are_cut(rewards, cut):
    whole = running_rewards(jnp.asarray(rewards))
    parts = merged_running_rewards(*(running_rewards(jnp.asarray(part)) for part in np.split(rewards, [cut])))
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    there = rewards[~np.isnan(rewards)].astype(np.float64)
    assert int(whole.number) == len(there)
    if len(there):
        assert float(whole.mean) == pytest.approx(there.mean(), abs=1e-4)
        assert float(whole.deviation()) == pytest.approx(there.std(), abs=1e-3)
        assert (float(whole.lowest), float(whole.highest)) == (there.min(), there.max())


def test_nothing_and_equal_rewards():
    nothing = running_rewards(jnp.zeros(0))
    assert [float(x) for x in nothing] == [0.0, 0.0, 0.0, np.inf, -np.inf]
    assert float(nothing.deviation()) == 0.0
    equal = running_rewards(jnp.float32([3, 3]))
    assert float(standardised_rewards(jnp.float32(3), equal.mean, equal.deviation())) == 0.0
    assert float(min_max_rewards(jnp.float32(3), equal.lowest, equal.highest)) == 0.0
    assert np.isnan(clipped_rewards(jnp.float32(np.nan), -1.0, 1.0))
    assert float(clipped_rewards(jnp.float32(7), -np.inf, 3.0)) == 3.0


def test_states_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"merged_running_rewards: one.number has shape \(\)"):
        merged_running_rewards.__wrapped__(running_rewards(jnp.ones(2)), running_rewards(jnp.ones((3, 2))))
