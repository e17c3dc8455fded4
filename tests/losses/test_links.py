"""Links of other divergences: written numbers, derivatives of their f, optima, limits, and TRL's own."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    alpha_link,
    discopop_loss,
    dpo_loss,
    forward_kl_link,
    hinge_loss,
    jensen_shannon_link,
    reverse_kl_link,
)

CHOSEN, REJECTED = np.array([1.0, -1.0]), np.array([-0.5, 1.0])  # the pairs of test_preference.py, β = 0.1


def half(logratio):
    return alpha_link(logratio, alpha=0.5)


KNOWN = {
    "forward_kl": (
        forward_kl_link,
        [0.63115438, 0.81755695],
        [-0.01721759, -0.1518136],
        [0.07716389, 0.02054574],
    ),
    "js": (
        jensen_shannon_link,
        [0.66065216, 0.74439666],
        [-0.01300293, -0.03837905],
        [0.03009501, 0.01411886],
    ),
    "alpha=.5": (half, [0.62769095, 0.80278725], [-0.02827506, -0.0909965], [0.05985831, 0.03347574]),
    "reverse_kl": (
        reverse_kl_link,
        [0.62095705, 0.79813887],
        [-0.04625702, -0.0549834],
        [0.04625702, 0.0549834],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_two_worked_pairs_values_and_gradients(name):
    link, values, by_chosen, by_rejected = KNOWN[name]
    with jax.enable_x64(True):

        def loss(chosen, rejected):
            return dpo_loss(link(chosen), link(rejected), beta=0.1)

        pairs = jnp.asarray(CHOSEN), jnp.asarray(REJECTED)
        gradients = jax.grad(lambda p: loss(*p).sum())(pairs)
        np.testing.assert_allclose(loss(*pairs), values, atol=6e-9)
    np.testing.assert_allclose(gradients[0], by_chosen, atol=6e-9)
    np.testing.assert_allclose(gradients[1], by_rejected, atol=6e-9)


# f of D_f(π‖π₀) = E_π₀ f(π/π₀), and its link.
DIVERGENCES = {
    "reverse_kl": (lambda t: t * jnp.log(t) - t + 1, reverse_kl_link),
    "forward_kl": (lambda t: -jnp.log(t) + t - 1, forward_kl_link),
    "js": (lambda t: t * jnp.log(t) - (t + 1) * jnp.log((t + 1) / 2), jensen_shannon_link),
    "alpha=.5": (lambda t: (t**0.5 - 0.5 * t - 0.5) / (0.5 * -0.5), half),
    "alpha=2": (lambda t: (t**2 - 2 * t + 1) / 2, lambda ratio: alpha_link(ratio, alpha=2.0)),
    "alpha=-1": (lambda t: (1 / t + t - 2) / 2, lambda ratio: alpha_link(ratio, alpha=-1.0)),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_link_is_the_derivative_of_f_and_0_at_the_reference(name):
    f, link = DIVERGENCES[name]
    with jax.enable_x64(True):
        logratio = jnp.linspace(-6.0, 3.0, 31)
        np.testing.assert_allclose(
            link(logratio), jax.vmap(jax.grad(f))(jnp.exp(logratio)), rtol=1e-10, atol=1e-12
        )
        assert float(f(jnp.ones(()))) == pytest.approx(0.0, abs=1e-15)
        assert float(link(jnp.zeros(()))) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_dpo_through_a_link_rests_at_the_best_policy_under_its_divergence(name):
    f, link = DIVERGENCES[name]
    beta, logits = 0.7, np.array([0.3, -1.0, 0.5])
    first, second = (np.array(arms) for arms in ([0, 0, 1], [1, 2, 2]))
    with jax.enable_x64(True):
        reference = jnp.array([0.5, 0.3, 0.2])

        def scores(logits):
            return link(jax.nn.log_softmax(logits) - jnp.log(reference))

        reward = beta * scores(jnp.asarray(logits)) + 3.0  # for which these logits are to be best

        def value(logits):
            policy = jax.nn.softmax(logits)
            return policy @ reward - beta * reference @ f(policy / reference)

        def of_pairs(logits):  # Bradley-Terry labels of that reward
            wins = jax.nn.sigmoid(reward[first] - reward[second])
            s = scores(logits)
            there, back = (dpo_loss(s[a], s[b], beta=beta) for a, b in [(first, second), (second, first)])
            return jnp.sum(wins * there + (1 - wins) * back)

        for objective in (value, of_pairs):
            gradient = jax.jit(jax.grad(objective))
            np.testing.assert_allclose(gradient(jnp.asarray(logits)), 0.0, atol=1e-12)
            assert float(jnp.abs(gradient(jnp.asarray(logits) + jnp.eye(3)[0])).max()) > 1e-3


NUMBERS = st.floats(-20, 20).map(np.float64)


@settings(max_examples=30, deadline=None)
@given(logratio=NUMBERS)
def test_alpha_runs_from_forward_to_reverse(logratio):
    with jax.enable_x64(True):
        ratio = jnp.asarray(logratio)
        np.testing.assert_allclose(alpha_link(ratio, alpha=0.0), forward_kl_link(ratio), rtol=1e-14)
        assert float(alpha_link(ratio, alpha=1.0)) == logratio == float(reverse_kl_link(ratio))
        np.testing.assert_allclose(alpha_link(ratio, alpha=1 + 1e-9), ratio, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(alpha_link(ratio, alpha=1 - 1e-9), ratio, rtol=1e-7, atol=1e-12)
        # Far below 0 the Jensen-Shannon link is the log-ratio and log 2.
        np.testing.assert_allclose(jensen_shannon_link(ratio - 60), ratio - 60 + np.log(2), rtol=1e-14)


def test_a_sweep_through_alpha_one_has_no_hole_in_float32():
    ratio = jnp.float32([-3.0, 0.0, 2.5])
    near = jax.jit(jax.vmap(lambda a: alpha_link(ratio, alpha=a)))(jnp.float32([0.999999, 1.0, 1.000001]))
    np.testing.assert_allclose(near, jnp.broadcast_to(ratio, near.shape), rtol=1e-5)
    by_alpha = jax.grad(lambda a: alpha_link(ratio, alpha=a).sum())(jnp.float32(1.0))
    assert np.isfinite(by_alpha)


def test_beyond_the_clamp_the_value_stands_still_and_the_gradient_is_none():
    for link in (forward_kl_link, half, lambda r: alpha_link(r, alpha=2.0)):
        for far in (-1e4, 1e4):
            value, slope = jax.value_and_grad(link)(jnp.float32(far))
            assert np.isfinite(value)
            assert slope in (0.0, pytest.approx(0.0, abs=1e-30))
    assert float(forward_kl_link(jnp.float32(-81.0))) == float(forward_kl_link(jnp.float32(-1e4)))
    assert float(jax.grad(forward_kl_link)(jnp.float32(-79.0))) > 1e34
    # And DPO through it is finite there too.
    pair = forward_kl_link(jnp.float32(-1e4)), forward_kl_link(jnp.float32(1.0))
    assert np.isfinite(dpo_loss(*pair, beta=0.1))


GOLDEN = json.loads((Path(__file__).parents[1] / "goldens/losses/trl_links.json").read_text())
LINKS = {
    "forward_kl": forward_kl_link,
    "js_divergence": jensen_shannon_link,
    "alpha=0.5": half,
    "alpha=0": lambda ratio: alpha_link(ratio, alpha=0.0),
    "alpha=1": lambda ratio: alpha_link(ratio, alpha=1.0),
    "alpha=2": lambda ratio: alpha_link(ratio, alpha=2.0),
}
LOSSES = {
    "sigmoid beta=0.1": lambda c, r: dpo_loss(c, r, beta=0.1),
    "hinge beta=0.5": lambda c, r: hinge_loss(c, r, beta=0.5),
    "discopop beta=0.1": lambda c, r: discopop_loss(c, r, beta=0.1),
}


def test_every_golden_of_a_divergence_is_compared():
    of_links = {name for name in GOLDEN["losses"] if not name.startswith(("wpo", "ld"))}
    assert of_links == {f"{link} {loss}" for link in LINKS for loss in LOSSES}


@pytest.mark.parametrize("link", LINKS)
def test_agrees_with_trl(link):
    sums = {name: np.float32(GOLDEN["pairs"][name]).sum(axis=-1) for name in ("logps", "reference_logps")}
    ratios = tuple(jnp.asarray(x) for x in (sums["logps"] - sums["reference_logps"]).T)

    @jax.jit
    def all_of_them(ratios):
        def of_pairs(ratios, loss):
            return loss(LINKS[link](ratios[0]), LINKS[link](ratios[1]))

        return {
            name: (of_pairs(ratios, loss), jax.grad(lambda r, loss=loss: of_pairs(r, loss).sum())(ratios))
            for name, loss in LOSSES.items()
        }

    for loss, (values, gradients) in all_of_them(ratios).items():
        name = f"{link} {loss}"
        np.testing.assert_allclose(values, GOLDEN["losses"][name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.stack(gradients, 1), GOLDEN["gradients"][name], rtol=2e-5, atol=1e-6)
