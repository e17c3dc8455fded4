"""From scores to probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.rewards import bradley_terry_probability, two_input_probability


def test_known_values():
    # With both orders' probabilities averaged instead of their logits it would be 0.683606.
    assert float(two_input_probability(jnp.float32(1.2), jnp.float32(-0.4))) == pytest.approx(
        0.689974, abs=6e-7
    )
    rewards = jnp.float32([0.0, -np.log(9), -np.log(2)])
    table = bradley_terry_probability(
        *(jnp.broadcast_to(r, (3, 3)) for r in (rewards[:, None], rewards[None]))
    )
    expected = [[1 / 2, 9 / 10, 2 / 3], [1 / 10, 1 / 2, 2 / 11], [1 / 3, 9 / 11, 1 / 2]]
    np.testing.assert_allclose(table, expected, rtol=1e-6)


@pytest.mark.parametrize("probability", [bradley_terry_probability, two_input_probability])
def test_antisymmetric_finite_far_out_and_in_float32(probability):
    one, other = 5 * jax.random.normal(jax.random.key(0), (2, 100))
    np.testing.assert_allclose(probability(one, other) + probability(other, one), 1.0, atol=1e-6)
    far = jnp.float32([1e4, -1e4])
    np.testing.assert_array_equal(probability(far, -far), [1.0, 0.0])
    assert np.all(np.isfinite(jax.grad(lambda x: probability(x, -x).sum())(far)))
    rough = probability(jnp.bfloat16(10.0625), jnp.bfloat16(10.0))
    assert rough.dtype == jnp.float32


def test_unit_vectors_at_thirds_of_a_turn_are_a_cycle():
    angles = 2 * jnp.pi * jnp.arange(3) / 3
    scores = jnp.sin(angles[None] - angles[:, None])  # ⟨R v_y, v_y'⟩, antisymmetric
    assert float(scores[0, 1]) == pytest.approx(0.866025, abs=1e-6)
    beats = two_input_probability(scores, scores.T)
    for step in ((0, 1), (1, 2), (2, 0)):
        assert float(beats[step]) == pytest.approx(1 / (1 + np.exp(-0.8660254)), abs=1e-6)
