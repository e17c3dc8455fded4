"""Entropy of answers and what steps take from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from prefjax.checks import InputError
from prefjax.rewards import answer_entropy, entropy_gains, entropy_slope, progress_rewards

TRAJECTORY = jnp.float32([2.5, 2.1, 1.5, 0.8, 0.3])


def test_written_entropies_and_a_gradient():
    logits = jnp.log(jnp.float32([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]))  # the last is -inf
    assert float(answer_entropy(logits[:1], jnp.ones(1))) == pytest.approx(0.801819, abs=6e-7)
    assert float(answer_entropy(logits, jnp.ones(2))) == pytest.approx(0.747483, abs=6e-7)
    assert float(answer_entropy(jnp.zeros((2, 7)), jnp.ones(2))) == pytest.approx(np.log(7), rel=1e-6)
    slope = jax.grad(lambda logits: answer_entropy(logits[None], jnp.ones(1)))(jnp.float32([1, 0, -1]))
    np.testing.assert_allclose(slope, [-0.282587, 0.140770, 0.141817], atol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda logits: answer_entropy(logits, jnp.ones(2)))(logits)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e4])
def test_padding_may_hold_anything_and_no_answer_is_nan(garbage):
    logits = jnp.float32([[[1, 0, -1], [garbage] * 3], [[garbage] * 3] * 2])
    mask = jnp.asarray([[1, 0], [0, 0]])
    found = answer_entropy(logits, mask)
    assert float(found[0]) == pytest.approx(0.832396, abs=1e-6)
    assert np.isnan(found[1])
    assert np.all(np.isfinite(jax.grad(lambda logits: answer_entropy(logits, mask)[0])(logits)))


def test_written_gains_and_slope():
    np.testing.assert_allclose(entropy_gains(TRAJECTORY), [0.4, 0.6, 0.7, 0.5], atol=1e-6)
    assert float(entropy_gains(TRAJECTORY).sum()) == pytest.approx(2.2, abs=1e-6)
    assert float(entropy_slope(TRAJECTORY)) == pytest.approx(-0.57, abs=1e-6)
    assert np.isnan(entropy_slope(TRAJECTORY[:1]))
    with pytest.raises(InputError, match=r"entropies has shape \(0,\)"):
        entropy_gains.__wrapped__(jnp.zeros(0))


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (6,), elements=st.floats(0, 5, width=32)))
def test_gains_are_progress_of_minus_the_entropy_and_the_slope_is_scipys(entropies):
    values = -jnp.asarray(entropies)
    gains = entropy_gains(-values)
    np.testing.assert_array_equal(gains, progress_rewards(values[1:], jnp.ones(5), values[0]))
    expected = stats.linregress(np.arange(6), entropies.astype(np.float64)).slope
    assert float(entropy_slope(-values)) == pytest.approx(expected, abs=1e-5)
    assert float(entropy_slope(-values[:2])) == pytest.approx(-float(gains[0]), abs=1e-6)


def test_averaged_over_answers_it_is_the_entropy_of_the_answer():
    """By enumeration of all answers of two tokens from three."""
    first = jnp.float32([0.3, -0.2, 1.0])
    second = jnp.float32([[0.1, 0.9, -1.0], [2.0, 0.0, 0.0], [-0.5, 0.5, 0.3]])
    answers = jax.nn.log_softmax(first)[:, None] + jax.nn.log_softmax(second, axis=-1)
    exact = -jnp.sum(jnp.exp(answers) * answers)
    proxies = jnp.stack([answer_entropy(jnp.stack([first, second[y]]), jnp.ones(2)) for y in range(3)])
    assert float(2 * jax.nn.softmax(first) @ proxies) == pytest.approx(float(exact), rel=1e-6)
