"""XPO and VPO: written numbers, signs, and the value that one of them is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import dpo_loss, iterated_dpo_loss, vpo_term, xpo_loss, xpo_term

# Four arms: logits of the policy, the reference, β = .5, pairs (0 ≻ 2) and (1 ≻ 3).
THETA, REFERENCE, BETA = [0.4, -0.2, 0.1, 0.3], [0.4, 0.3, 0.2, 0.1], 0.5
WINNERS, LOSERS = np.array([0, 1]), np.array([2, 3])
CHOSEN = [0.5, 0.5, 0.0, 0.0]  # how often each arm is the chosen one


def objective(theta, alpha, calibration):
    logratio = jax.nn.log_softmax(theta) - jnp.log(jnp.asarray(REFERENCE))
    pairs = dpo_loss(logratio[WINNERS], logratio[LOSERS], beta=BETA).mean()
    return pairs + jnp.asarray(calibration) @ vpo_term(logratio, beta=BETA, alpha=alpha)


@pytest.mark.parametrize(
    ("alpha", "calibration", "value", "gradient"),
    [
        (0.0, REFERENCE, 0.9834391703, [-0.13724644, -0.17245651, 0.13724644, 0.17245651]),
        (0.2, REFERENCE, 0.9702825593, [-0.1285505641, -0.1596365774, 0.1340557745, 0.1541313670]),
        (-0.2, REFERENCE, 0.9965957814, [-0.1459423159, -0.1852764422, 0.1404371055, 0.1907816526]),
        (-0.2, CHOSEN, 1.0235680272, [-0.1559423159, -0.2052764422, 0.1604371055, 0.2007816526]),
    ],
    ids=["dpo", "online", "offline", "offline, chosen"],
)
def test_vpo_written_numbers(alpha, calibration, value, gradient):
    with jax.enable_x64(True):
        found = jax.value_and_grad(objective)(jnp.asarray(THETA), alpha, calibration)
    assert float(found[0]) == pytest.approx(value, abs=6e-11)
    np.testing.assert_allclose(found[1], gradient, atol=6e-9)


def test_vpo_term_is_the_best_value_of_the_reward_that_the_policy_stands_for():
    with jax.enable_x64(True):
        reference = jnp.asarray(REFERENCE)
        reward = jnp.array([0.36, -0.44, -0.14, 0.16])
        assert float(reference @ reward) == pytest.approx(0.0, abs=1e-12)
        best = BETA * jnp.log(jnp.sum(reference * jnp.exp(reward / BETA)))
        assert float(best) == pytest.approx(0.1055669345, abs=6e-11)
        logratio = (reward - best) / BETA  # of the policy that is best under it
        assert float(reference @ vpo_term(logratio, beta=BETA, alpha=1.0)) == pytest.approx(
            -float(best), abs=1e-12
        )


def test_xpo_is_dpo_and_the_log_probability_of_what_the_reference_wrote():
    chosen, rejected, sample = jnp.float32([0.3, -1.0]), jnp.float32([0.1, 0.4]), jnp.float32([-7.0, -3.0])
    loss = xpo_loss(chosen, rejected, sample, beta=0.1, alpha=0.01)
    np.testing.assert_allclose(loss, dpo_loss(chosen, rejected, beta=0.1) + 0.01 * sample, rtol=1e-6)
    # Optimism: descending the loss makes the reference's sample less likely.
    assert np.all(jax.grad(lambda s: xpo_term(s, alpha=0.01).sum())(sample) > 0)
    np.testing.assert_array_equal(
        xpo_loss(chosen, rejected, sample, beta=0.1, alpha=0.0), dpo_loss(chosen, rejected, beta=0.1)
    )


def test_xpo_and_vpo_online_have_one_gradient():
    # π_cal = π₀ and α_XPO = αβ.
    logp, reference_logp = jnp.float32(-7.0), jnp.float32(-6.0)
    by_xpo = jax.grad(lambda x: xpo_term(x, alpha=0.05))(logp)
    by_vpo = jax.grad(lambda x: vpo_term(x - reference_logp, beta=0.5, alpha=0.1))(logp)
    assert float(by_xpo) == pytest.approx(float(by_vpo), rel=1e-6)


def test_vpo_offline_on_chosen_completions_has_the_gradient_of_iterated_dpo():
    with jax.enable_x64(True):
        log_reference = jnp.log(jnp.asarray(REFERENCE))

        def imitating(theta):
            logp = jax.nn.log_softmax(theta)
            ratio = logp - log_reference
            pair = ratio[WINNERS], ratio[LOSERS]
            return iterated_dpo_loss(*pair, logp[WINNERS], beta=BETA, alpha=0.2 * BETA).mean()

        theta = jnp.asarray(THETA)
        by_term = jax.grad(objective)(theta, -0.2, CHOSEN)
        np.testing.assert_allclose(jax.grad(imitating)(theta), by_term, rtol=1e-12)


def test_offline_has_an_optimum_where_labels_never_disagree_and_online_has_none():
    with jax.enable_x64(True):

        def trained(alpha, steps):
            def step(_, theta):
                return theta - 2.0 * jax.grad(objective)(theta, alpha, REFERENCE)

            return jax.lax.fori_loop(0, steps, step, jnp.asarray(THETA))

        run = jax.jit(trained, static_argnums=1)
        found, later = run(-0.2, 2000), run(-0.2, 4000)
        np.testing.assert_allclose(jax.grad(objective)(found, -0.2, REFERENCE), 0.0, atol=1e-8)
        np.testing.assert_allclose(jax.nn.softmax(later), jax.nn.softmax(found), atol=1e-7)
        for alpha in (0.0, 0.2):
            sooner, later = run(alpha, 2000), run(alpha, 4000)
            drift = jax.nn.log_softmax(later) - jax.nn.log_softmax(sooner)
            assert float(jnp.abs(drift).max()) > 0.1
        # Optimism is unbounded below.
        gained = objective(sooner, 0.2, REFERENCE) - objective(later, 0.2, REFERENCE)
        assert float(gained) > 0.01
