"""OREO: written numbers and gradients, padding and steps, and its optimum on a tree where all is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.losses import a_star_po_loss, oreo_policy_loss, oreo_value_loss, step_sums, value_loss
from prefjax.types import Weighted

RATIOS, VALUES = jnp.float32([0.2, -0.1, 0.4]), jnp.float32([0.5, 0.6, 0.7])
ONES, BETA = jnp.ones(3), 0.03


def test_written_values_and_gradients():
    def policy(ratios):
        return oreo_policy_loss(ratios, VALUES, ONES, ONES, beta=BETA).mean()

    def value(values):
        return oreo_value_loss(values, RATIOS, ONES, ONES, beta=BETA).mean()

    with_policy, with_value = jax.value_and_grad(policy)(RATIOS), jax.value_and_grad(value)(VALUES)
    for found in (with_policy, with_value):
        assert float(found[0]) == pytest.approx(0.157016667, abs=1e-8)
    np.testing.assert_allclose(with_policy[1], [-0.0097, -0.00782, -0.00576], atol=1e-8)
    np.testing.assert_allclose(with_value[1], [-0.323333333, -0.260666667, -0.192], atol=1e-7)
    each = oreo_value_loss(VALUES, RATIOS, ONES, ONES)
    np.testing.assert_allclose(jnp.sqrt(each), [0.485, 0.391, 0.288], atol=1e-6)


def test_steps_and_whole_sequences_by_hand():
    def of_steps(ratios):
        steps = step_sums(ratios, jnp.array([0, 0, 1]), ONES, num_steps=2)
        values = VALUES[jnp.array([0, 2])]  # of the states in which steps start
        return oreo_policy_loss(steps, values, jnp.ones(2), jnp.ones(2)).mean()

    value, gradient = jax.value_and_grad(of_steps)(RATIOS)
    assert float(value) == pytest.approx(0.1590845, abs=3e-8)
    np.testing.assert_allclose(gradient, [-0.01455, -0.01455, -0.00864], atol=1e-8)

    whole = step_sums(RATIOS, jnp.zeros(3, int), ONES, num_steps=1)
    found = oreo_policy_loss(whole, VALUES[:1], jnp.ones(1), jnp.ones(1))[0]
    assert float(found) == pytest.approx(0.235225, abs=1e-8)
    regressed = a_star_po_loss(RATIOS.sum(), jnp.float32(1.0), VALUES[0], beta=BETA)
    assert float(regressed) == pytest.approx(0.235225, abs=1e-8)
    # Moving mass between tokens changes the loss of tokens, not that of the sequence.
    moved = RATIOS + jnp.float32([0.3, -0.3, 0.0])
    np.testing.assert_allclose(step_sums(moved, jnp.zeros(3, int), ONES, num_steps=1), whole, atol=1e-6)
    assert (
        np.abs(
            oreo_policy_loss(moved, VALUES, ONES, ONES) - oreo_policy_loss(RATIOS, VALUES, ONES, ONES)
        ).max()
        > 1e-3
    )


def test_at_the_reference_the_value_is_regressed_on_the_outcome():
    returns = jnp.float32([1.0, 0.0, 1.0])
    np.testing.assert_allclose(
        oreo_value_loss(VALUES, jnp.zeros(3), returns, ONES),
        2 * value_loss(VALUES, jnp.zeros(3), returns),
        rtol=1e-6,
    )


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4])
def test_what_the_policy_did_not_write_is_skipped(garbage):
    """Padding behind, and an observation between: sums of log-ratios leave it out."""
    mask = jnp.float32([1, 0, 1, 1, 0])
    wide = {
        name: jnp.full(5, garbage).at[jnp.array([0, 2, 3])].set(values)
        for name, values in (("ratios", RATIOS), ("values", VALUES), ("returns", ONES))
    }

    def mean(ratios, values):
        policy = oreo_policy_loss(ratios, values, wide["returns"], mask)
        value = oreo_value_loss(values, ratios, wide["returns"], mask)
        return Weighted.sequences(policy + value, mask).mean()

    loss, gradients = jax.value_and_grad(mean, argnums=(0, 1))(wide["ratios"], wide["values"])
    assert float(loss) == pytest.approx(2 * 0.157016667, abs=1e-6)
    np.testing.assert_allclose(gradients[0][mask == 1], [-0.0097, -0.00782, -0.00576], atol=1e-7)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[mask == 0], 0.0)
    beside = step_sums(wide["ratios"], jnp.zeros(5, int), mask, num_steps=2)
    np.testing.assert_allclose(beside, [0.5, 0.0], atol=1e-6)


# --- A binary tree of depth two with a uniform reference: actions LL, LR, RL, RR, reward 1 for the first.
STATES, ACTIONS = jnp.array([[0, 1], [0, 1], [0, 2], [0, 2]]), jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
RETURNS = jnp.broadcast_to(jnp.float32([1, 0, 0, 0])[:, None], (4, 2))


def losses_of(params, *, beta):
    logits, values = params
    ratios = jax.nn.log_softmax(logits)[STATES, ACTIONS] + jnp.log(2.0)
    mask = jnp.ones((4, 2))
    policy = oreo_policy_loss(ratios, values[STATES], RETURNS, mask, beta=beta)
    return policy, oreo_value_loss(values[STATES], ratios, RETURNS, mask, beta=beta)


@pytest.mark.parametrize(
    ("beta", "root"), [(0.03, 0.958411169), (0.1, 0.861384183), (0.5, 0.477229296), (1.0, 0.357374020)]
)
def test_at_the_optimum_every_residual_is_zero(beta, root):
    # V of a state, by the log-mean-exp of what its actions lead to; π* from it.
    left = beta * np.logaddexp(1 / beta, 0) - beta * np.log(2)
    values = np.array([beta * (np.logaddexp(left / beta, 0) - np.log(2)), left, 0.0])
    assert values[0] == pytest.approx(root, abs=1e-9)
    logits = np.array([[left, 0], [1, 0], [0, 0]]) / beta
    for loss in losses_of((jnp.float32(logits), jnp.float32(values)), beta=beta):
        np.testing.assert_allclose(loss, 0.0, atol=1e-12 + 1e-12 / beta)


def test_from_nothing_it_finds_the_regularised_optimum():
    beta, optimizer = 0.5, optax.adam(0.03)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            policy, value = losses_of(params, beta=beta)

            def total(params):
                policy, value = losses_of(params, beta=beta)
                return policy.mean() + value.mean()

            updates, state = optimizer.update(jax.grad(total)(params), state)
            return (optax.apply_updates(params, updates), state), policy.mean() + value.mean()

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=2000)

    (params, _), losses = train((jnp.zeros((3, 2)), jnp.zeros(3)))
    chances = jax.nn.softmax(params[0])
    assert float(losses[0]) > 0.1
    assert float(losses[-1]) < 1e-8
    assert float(chances[0, 0]) == pytest.approx(0.807489729, abs=1e-4)
    assert float(chances[1, 0]) == pytest.approx(0.880797078, abs=1e-4)
    np.testing.assert_allclose(params[1], [0.477229296, 0.716890415, 0.0], atol=1e-4)


def test_the_gradient_is_that_of_each_residual_alone():
    """Not of their sum over states: 2β Σ e_j for j <= t, which the inner stop of the gradient prevents."""
    residuals = jnp.float32([-0.485, -0.391, -0.288])

    def unstopped(ratios):
        tails = jnp.cumsum(ratios[::-1])[::-1]
        return ((VALUES - 1 + BETA * tails) ** 2).mean()

    np.testing.assert_allclose(jax.grad(unstopped)(RATIOS), [-0.0097, -0.01752, -0.02328], atol=1e-8)
    stopped = jax.grad(lambda r: oreo_policy_loss(r, VALUES, ONES, ONES).mean())(RATIOS)
    np.testing.assert_allclose(stopped, 2 * BETA * residuals / 3, atol=1e-8)
