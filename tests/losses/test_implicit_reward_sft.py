"""The f-divergence losses of imitation: written numbers, duality against a primal solver, tangents, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    chi_square_sft_loss,
    forward_kl_sft_loss,
    hellinger_sft_loss,
    jensen_shannon_sft_loss,
    nll_loss,
    reverse_kl_sft_loss,
)

U = jnp.float32([0.2, -0.3, 1.0, 2.5])
NONE = jnp.zeros(4)
DEMONSTRATOR, REFERENCE, BETA = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5]), 0.5
ALL = {
    "chi_square": chi_square_sft_loss,
    "hellinger": hellinger_sft_loss,
    "jensen_shannon": jensen_shannon_sft_loss,
    "reverse_kl": reverse_kl_sft_loss,
    "forward_kl": forward_kl_sft_loss,
}
# f and f' of D_f(π‖π_E) = Σ π_E f(π/π_E).
DIVERGENCE = {
    "chi_square": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    "hellinger": (lambda t: (np.sqrt(t) - 1) ** 2, lambda t: 1 - 1 / np.sqrt(t)),
    "jensen_shannon": (
        lambda t: t * np.log(t) - (1 + t) * np.log((1 + t) / 2),
        lambda t: np.log(2 * t / (1 + t)),
    ),
    "reverse_kl": (lambda t: t * np.log(t), lambda t: np.log(t) + 1),
    "forward_kl": (lambda t: -np.log(t), lambda t: -1 / t),
}


@pytest.mark.parametrize(
    ("name", "values", "slopes"),
    [
        ("chi_square", [-0.19, 0.3225, -0.75, -0.9375], [-0.9, -1.15, -0.5, 0.25]),
        (
            "hellinger",
            [-0.1666667, 0.4285714, -0.5, -0.7142857],
            [-0.6944444, -2.0408163, -0.25, -0.0816327],
        ),
        ("jensen_shannon", [-0.1665895, 0.4305657, -0.4898801, -0.6512387], None),
    ],
)
def test_written_numbers_and_slopes(name, values, slopes):
    np.testing.assert_allclose(ALL[name](U, NONE, beta=1.0), values, atol=1e-6)
    # β scales what the log-ratio does, and the slope.
    np.testing.assert_allclose(ALL[name](U / 0.1, NONE, beta=0.1), values, atol=1e-6)
    if slopes:
        found = jax.grad(lambda u: ALL[name](u, NONE, beta=1.0).sum())(U)
        np.testing.assert_allclose(found, slopes, atol=1e-6)


def test_the_means_of_the_card_and_the_exact_value_of_chi_square():
    assert float(chi_square_sft_loss(U, NONE, beta=1.0).mean()) == pytest.approx(-0.38875, rel=1e-6)
    assert float(hellinger_sft_loss(U, NONE, beta=1.0).mean()) == pytest.approx(-0.2380952, rel=1e-6)
    exact = chi_square_sft_loss(U, jnp.full(4, -U.mean()), beta=1.0).mean()
    assert float(exact) == pytest.approx(-0.569375, rel=1e-6)
    assert float(exact) == pytest.approx(-float(U.mean() - U.var() / 4), rel=1e-6)


def test_where_the_policy_is_the_reference_a_demonstration_counts_as_in_sft():
    for name, first in zip(ALL, (1.0, 1.0, 1.0, np.exp(-1)), strict=False):
        slope = jax.grad(lambda rho, name=name: ALL[name](rho, jnp.zeros(()), beta=0.3))(jnp.zeros(()))
        assert float(slope) == pytest.approx(-0.3 * first, rel=1e-6)
    # Total variation: φ(r) = r, and V cancels: β times the likelihood.
    slope = jax.grad(lambda rho: 0.3 * nll_loss(rho[None])[0])(jnp.zeros(()))
    assert float(slope) == pytest.approx(-0.3, rel=1e-6)


def bisect(increasing, low, high):
    for _ in range(100):
        middle = (low + high) / 2
        right = increasing(middle) < 0
        low, high = np.where(right, middle, low), np.where(right, high, middle)
    return middle


def primal(name, beta=BETA):
    """min over π of D_f(π‖π_E) + β KL(π‖π₀): Lagrange's conditions, solved by bisection. And -V, the multiplier.

    f'(π/π_E) + β log(π/π₀) + V = 0 at every answer, and probabilities that sum to one.
    """
    f, slope = DIVERGENCE[name]

    def policy(v):
        def stationary(log_t):
            t = np.exp(log_t)
            return slope(t) + beta * np.log(t * DEMONSTRATOR / REFERENCE) + v

        return DEMONSTRATOR * np.exp(bisect(stationary, np.full(3, -30.0), np.full(3, 30.0)))

    v = float(bisect(lambda v: 1 - policy(v).sum(), -50.0 - 10 * beta, 50.0 + 10 * beta))
    found = policy(v)
    value = (DEMONSTRATOR * f(found / DEMONSTRATOR)).sum() + beta * (found * np.log(found / REFERENCE)).sum()
    return found, value, v


@pytest.mark.parametrize(
    ("name", "best", "policy", "its_value"),
    [
        ("chi_square", 0.2118941350, [0.527295, 0.329354, 0.143351], -0.242370),
        ("hellinger", 0.1333180289, [0.392287, 0.332007, 0.275705], -0.100112),
        ("jensen_shannon", 0.1323234382, [0.390137, 0.330582, 0.279281], -0.095893),
        ("reverse_kl", 0.1798411623, [0.469008, 0.338213, 0.192779], None),
        ("forward_kl", 0.1727099797, [0.460462, 0.324310, 0.215227], 0.886081),
    ],
)
def test_duality(name, best, policy, its_value):
    """The loss with a learned V is at rest where an independent solver finds the primal optimum, at the same value."""
    optimum, value, v = primal(name)
    np.testing.assert_allclose(optimum, policy, atol=1e-6)
    assert value == pytest.approx(best, abs=1e-9)
    if its_value:
        assert v == pytest.approx(its_value, abs=1e-6)
    with jax.enable_x64(True):

        def mean(both):
            logits, v = both
            ratio = jax.nn.log_softmax(logits) - jnp.log(REFERENCE)
            return jnp.sum(DEMONSTRATOR * ALL[name](ratio, jnp.full(3, v), beta=BETA))

        found, slopes = jax.jit(jax.value_and_grad(mean))((np.log(optimum), v))
        assert float(found) == pytest.approx(-best, abs=1e-9)
        np.testing.assert_allclose(slopes[0], 0.0, atol=1e-9)
        assert float(slopes[1]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "best", "policy"),
    [
        ("chi_square", 0.1972939122, [0.519403, 0.332348, 0.148248]),
        ("hellinger", 0.1236215393, [0.403204, 0.332568, 0.264228]),
    ],
)
def test_without_a_value_another_policy_is_found(name, best, policy):
    with jax.enable_x64(True):

        def mean(logits):
            ratio = jax.nn.log_softmax(logits) - jnp.log(REFERENCE)
            return jnp.sum(DEMONSTRATOR * ALL[name](ratio, jnp.zeros(3), beta=BETA))

        both, hessian = jax.jit(jax.value_and_grad(mean)), jax.jit(jax.hessian(mean))
        logits = np.log(policy)
        for _ in range(5):
            logits -= np.linalg.pinv(hessian(logits), rcond=1e-9) @ both(logits)[1]
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), policy, atol=2e-6)
        assert float(both(logits)[0]) == pytest.approx(-best, abs=1e-9)
        np.testing.assert_allclose(both(logits)[1], 0.0, atol=1e-10)


def test_between_demonstrator_and_reference():
    # KL(π‖π_E): a geometric mean.
    power = DEMONSTRATOR ** (1 / 1.5) * REFERENCE ** (0.5 / 1.5)
    np.testing.assert_allclose(primal("reverse_kl")[0], power / power.sum(), atol=1e-7)
    for name in ALL:
        np.testing.assert_allclose(primal(name, beta=1e-4)[0], DEMONSTRATOR, atol=1e-3)
        np.testing.assert_allclose(primal(name, beta=1e3)[0], REFERENCE, atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.floats(-30, 30), st.floats(-3, 3))
def test_convex_in_the_reward_and_without_a_step_at_the_edges(reward, value):
    """Slopes that only grow; a tangent that begins with the value and slope of what it continues."""
    edges = {"hellinger": -0.95, "jensen_shannon": 0.05 - np.log(2), "reverse_kl": -21.0, "forward_kl": 0.05}
    for name, loss in ALL.items():
        both = SLOPES[name]
        here, there = both(jnp.float32(reward)), both(jnp.float32(reward + 0.5))
        assert float(here) <= float(there) + 1e-5 * abs(float(here))
        shifted = loss(jnp.float32([reward - value]), jnp.float32([value]), beta=1.0)[0] - value
        plain = loss(jnp.float32([reward]), jnp.zeros(1), beta=1.0)[0]
        assert float(shifted) == pytest.approx(float(plain), rel=1e-3, abs=1e-3)
        if name in edges:
            below, above = (both(jnp.float32(edges[name] + side)) for side in (-1e-4, 1e-4))
            assert float(below) == pytest.approx(float(above), rel=1e-2)


SLOPES = {
    name: jax.jit(jax.grad(lambda r, loss=loss: loss(r, jnp.zeros(()), beta=1.0)))
    for name, loss in ALL.items()
}
