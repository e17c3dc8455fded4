"""Divergences: what the mean of each estimate is, and, apart, the mean of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import entropy, kl_exact, kl_k1, kl_k2, kl_k3, kl_penalty

POLICY, REFERENCE, BEHAVIOUR = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]
KL, BIASED = 0.0252671539, 0.0248624073
FORWARDS, BACKWARDS = [0.0989382, -0.09388477, -0.00505343], [0.1, -0.1, 0.0]


def on_policy(logps, behaviour_logps, reference_logps):
    return kl_penalty(logps, jax.lax.stop_gradient(logps), reference_logps)


ESTIMATES = {
    "k1": (lambda p, b, r: kl_k1(p, r), POLICY, KL, [0.0, 0.0, 0.0]),
    "k2": (lambda p, b, r: kl_k2(p, r), POLICY, BIASED, FORWARDS),
    "k3": (lambda p, b, r: kl_k3(p, r), POLICY, KL, BACKWARDS),
    "penalty": (on_policy, POLICY, KL, FORWARDS),
    "penalty, off-policy": (kl_penalty, BEHAVIOUR, KL, FORWARDS),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_mean_value_and_mean_gradient_are_as_the_table_says(name):
    estimate, sampler, value, gradient = ESTIMATES[name]
    with jax.enable_x64(True):
        chances, reference = jnp.asarray(sampler), jnp.log(jnp.asarray(REFERENCE))

        def mean(logits):
            return chances @ estimate(jax.nn.log_softmax(logits), jnp.log(chances), reference)

        found = jax.value_and_grad(mean)(jnp.log(jnp.asarray(POLICY)))
    assert float(found[0]) == pytest.approx(value, abs=6e-11)
    np.testing.assert_allclose(found[1], gradient, atol=6e-9)


def test_variances_of_the_estimates():
    with jax.enable_x64(True):
        logps, reference = jnp.log(jnp.asarray(POLICY)), jnp.log(jnp.asarray(REFERENCE))
        for estimate, written in ((kl_k1, 0.0490863856), (kl_k2, 0.0002054825), (kl_k3, 0.0002545942)):
            value, chances = estimate(logps, reference), jnp.asarray(POLICY)
            assert float(chances @ value**2 - (chances @ value) ** 2) == pytest.approx(written, abs=6e-11)


def test_exact_divergence_and_its_gradient():
    with jax.enable_x64(True):
        logits, reference = 7 + jnp.log(jnp.asarray(POLICY)), jnp.log(jnp.asarray(REFERENCE))
        value, gradient = jax.value_and_grad(kl_exact)(logits, reference)
    assert float(value) == pytest.approx(KL, abs=6e-11)
    np.testing.assert_allclose(gradient, FORWARDS, atol=6e-9)


def test_entropy_from_none_to_all():
    np.testing.assert_allclose(
        entropy(jnp.float32([[0, 0, 0, 0], [50, 0, 0, 0], [3, 3, -jnp.inf, -jnp.inf]])),
        [np.log(4), 0.0, np.log(2)],
        atol=1e-6,
    )
    chances = np.array(POLICY)
    assert float(entropy(jnp.log(jnp.float32(POLICY)))) == pytest.approx(
        -(chances * np.log(chances)).sum(), rel=1e-6
    )


def test_an_excluded_token_has_no_gradient_and_no_nan():
    logits = jnp.float32([1.0, 2.0, -jnp.inf])
    for function in (
        entropy,
        lambda x: kl_exact(x, logits),
        lambda x: kl_exact(x, jnp.float32([1.0, 0.0, 3.0])),
    ):
        value, gradient = jax.value_and_grad(function)(logits)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
        assert float(gradient[2]) == 0.0


def test_close_to_the_reference_k2_and_k3_agree_and_on_policy_the_penalty_is_k3():
    apart = jnp.float32([-0.1, -0.01, 0.0, 0.01, 0.1])
    k2, k3 = (estimate(apart, jnp.zeros(5)) for estimate in (kl_k2, kl_k3))
    assert np.all(np.abs(k2 - k3) <= np.abs(apart) ** 3 / 5 + 1e-8)
    np.testing.assert_array_equal(on_policy(apart, None, jnp.zeros(5)), k3)


def test_far_below_the_reference_the_value_is_cut_off_without_gradient():
    reference, far = jnp.zeros(3), jnp.float32([-20.5, -100.0, -1e4])
    value, gradient = jax.value_and_grad(lambda x: kl_k3(x, reference).sum())(far)
    assert float(value) == pytest.approx(3 * (np.expm1(20) - 20), rel=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)


def test_per_token_means_of_the_worked_sequences():
    # Two completions of three and two tokens: token means of k1, k2, k3; then k3 by sequences.
    logps = jnp.float32([-0.8, -0.9, -1.6, -1.0, -0.9])
    reference = jnp.float32([-1.1, -0.6, -1.8, -0.9, -1.0])
    assert float(kl_k1(logps, reference).mean()) == pytest.approx(0.04, abs=1e-7)
    assert float(kl_k2(logps, reference).mean()) == pytest.approx(0.024, abs=1e-7)
    k3 = kl_k3(logps, reference)
    assert float(k3.mean()) == pytest.approx(0.0238832235, abs=1e-8)
    assert float((k3[:3].mean() + k3[3:].mean()) / 2) == pytest.approx(0.0207367143, abs=1e-8)
