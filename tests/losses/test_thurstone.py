"""Thurstone's loss: written probabilities, slopes far out, what it identifies, utilities recovered from answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from prefjax.losses import thurstone_loss
from prefjax.rewards import normalised_utilities, thurstone_probability

NUMBER = st.integers(-80, 80).map(lambda i: i / 8)
MEANS, VARIANCES = (
    arrays(np.float32, (5,), elements=NUMBER),
    arrays(np.float32, (5,), elements=st.integers(1, 30)),
)


def test_written_numbers_and_a_gradient_by_hand():
    one, zero = jnp.float32([1, 1, 1]), jnp.float32([0, 0, 0.2])
    loss = thurstone_loss(one, zero, jnp.float32([1, 1, 0.5]), jnp.float32([1, 4, 0.3]))
    np.testing.assert_allclose(np.exp(-loss), [0.760250, 0.672640, 0.814453], atol=1e-6)
    unit = jnp.float32(1), jnp.float32(0), jnp.float32(1), jnp.float32(1)
    found = jax.grad(thurstone_loss, argnums=(0, 1, 2, 3))(*unit)
    z = 2**-0.5
    mills = stats.norm.pdf(z) / stats.norm.cdf(z)
    expected = [-mills * z, mills * z, mills * z / 4, mills * z / 4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(MEANS, MEANS, VARIANCES, VARIANCES, st.floats(0, 1, width=32))
def test_the_cross_entropy_of_its_probability_antisymmetric_and_blind_to_the_gauge(m, n, v, w, q):
    m, n, v, w = (jnp.asarray(x) for x in (m, n, v, w))
    loss = thurstone_loss(m, n, v, w, target=q)
    z = (np.float64(m) - np.float64(n)) / np.sqrt(np.float64(v) + np.float64(w))
    np.testing.assert_allclose(
        loss, -q * stats.norm.logcdf(z) - (1 - q) * stats.norm.logcdf(-z), rtol=1e-4, atol=1e-30
    )
    np.testing.assert_allclose(loss, thurstone_loss(n, m, w, v, target=1 - q), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(
        loss, thurstone_loss(2 * m + 3, 2 * n + 3, 4 * v, 4 * w, target=q), rtol=1e-5, atol=1e-30
    )
    np.testing.assert_allclose(thurstone_loss(m, m, v, w, target=q), np.log(2), rtol=1e-6)


def test_it_rests_where_the_probability_is_the_target_and_pulls_far_out():
    rest = jnp.float32(stats.norm.ppf(0.8) * np.sqrt(3))
    others = jnp.float32(0), jnp.float32(1), jnp.float32(2)
    slope = jax.grad(lambda m: thurstone_loss(m, *others, target=0.8))
    assert float(slope(rest)) == pytest.approx(0.0, abs=1e-6)
    far = slope(jnp.float32(-1e4))
    # q z/√3 with z = m/√3; jax's own log Φ would say 2981/√3 of 5774/√3.
    assert float(far) == pytest.approx(-0.8 * 1e4 / 3, rel=1e-4)


def test_utilities_are_recovered_from_answers():
    """Twenty options, twenty answers to each of 190 questions, a few hundred steps."""
    random = np.random.default_rng(0)
    means, variances = jnp.float32(random.normal(size=20)), jnp.float32(random.uniform(0.02, 0.2, size=20))
    one, other = np.triu_indices(20, 1)
    true = thurstone_probability(means[one], means[other], variances[one], variances[other])
    answers = jnp.float32(random.binomial(20, true) / 20)

    def objective(params):
        means, log_variances = params
        v = jnp.exp(log_variances)
        return thurstone_loss(means[one], means[other], v[one], v[other], target=answers).mean()

    @jax.jit
    def descend(params):
        def step(carry, _):
            params, momentum = carry
            momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, jax.grad(objective)(params))
            return (jax.tree.map(lambda p, m: p - 0.3 * m, params, momentum), momentum), None

        nothing = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, (params, nothing), None, length=400)[0][0]

    fitted, log_variances = descend((jnp.zeros(20), jnp.zeros(20)))
    fitted, _ = normalised_utilities(fitted, jnp.exp(log_variances))
    assert np.corrcoef(fitted, means)[0, 1] > 0.97
