"""Every loss on pairs, by its name and through the words that it is given, trained on a bandit to its known optimum.

Three answers, of which the first two are compared: the first wins in four of five pairs. So whoever has a population
optimum has one here, in closed form or as the root or the minimum of an equation in float64. The third answer takes
what probability is left.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import PAIRED_LOSSES, call_by_name, paired_terms
from prefjax.losses import alpha_link, forward_kl_link, jensen_shannon_link

P, BETA, STEPS = 0.8, 1.0, 3000
CHOSEN, REJECTED = jnp.array([0, 0, 0, 0, 1]), jnp.array([1, 1, 1, 1, 0])
LOGIT = np.log(P / (1 - P))
REFERENCE = np.array([0.2, 0.1, 0.7])
LENGTHS = np.array([2.0, 3.0, 1.0])  # the first token is the choice, the others follow from it
WIN_RATES = np.array([P, 1 - P, 0.5])
OFFSET = 0.4
MEAN_LENGTH = P * LENGTHS[0] + (1 - P) * LENGTHS[1]  # of what is chosen


class Trained(NamedTuple):
    """What came out, in float64."""

    policy: np.ndarray
    logratio: np.ndarray
    halfway: np.ndarray  # log-ratios after half of the steps

    @property
    def margin(self):
        return self.logratio[0] - self.logratio[1]

    @property
    def average_margin(self):
        return self.logratio[0] / LENGTHS[0] - self.logratio[1] / LENGTHS[1]

    @property
    def average_logps(self):
        return np.log(self.policy) / LENGTHS


class Row(NamedTuple):
    """What is measured of a trained policy, and what it has to be."""

    measured: Callable[[Trained], float | np.ndarray]
    optimum: float | tuple[float, ...]
    tolerance: float = 2e-3
    settings: dict = {}  # noqa: RUF012  never changed
    start: float = 0.0  # log-ratio of the first answer


def margin(trained):
    return trained.margin


def both(trained):
    return trained.logratio[:2]


def share(trained):
    return trained.policy[0]


def softplus(x):
    return np.logaddexp(0.0, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def root(rising, low=-20.0, high=20.0):
    """Where a rising function is 0."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def lowest(value):
    """Where a convex function of the share of the first answer is lowest, the second having the rest."""
    low, high = 1e-9, 1 - 1e-9
    for _ in range(300):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if value(a, 1 - a) < value(b, 1 - b) else (a, high)
    return (low + high) / 2


def either(loss):
    """A loss of (π⁺, π⁻) over both orders."""
    return lambda first, second: P * loss(0, 1, (first, second)) + (1 - P) * loss(1, 0, (first, second))


def imitation(chosen, shares):
    """-log π of what is chosen, a mean over tokens."""
    return -np.log(shares[chosen]) / MEAN_LENGTH


def cpo(c, r, shares):
    return softplus(-BETA * np.log(shares[c] / shares[r])) + imitation(c, shares)


def rpo(c, r, shares):
    gap = np.log(shares[c] / shares[r]) - np.log(REFERENCE[c] / REFERENCE[r])
    return softplus(-BETA * gap) + imitation(c, shares)


def iterated(c, r, shares):
    gap = np.log(shares[c] / shares[r]) - np.log(REFERENCE[c] / REFERENCE[r])
    return softplus(-BETA * gap) - np.log(shares[c]) / LENGTHS[c]


def orpo(c, r, shares):
    average = [np.log(share) / LENGTHS[i] for i, share in enumerate(shares)]
    odds = [a - np.log1p(-np.exp(a)) for a in average]
    return BETA * softplus(odds[r] - odds[c]) + imitation(c, shares)


def slic(c, r, shares):
    return np.maximum(0.0, 1.0 - np.log(shares[c] / shares[r])) - 0.1 * np.log(shares[c])


def with_gamma(gamma):
    """Where p σ(γ - x) = (1 - p) σ(γ + x)."""
    return root(lambda x: (1 - P) * sigmoid(gamma + x) - P * sigmoid(gamma - x))


def discopop(z):
    def one(z):
        share = sigmoid(z / 0.05)
        return (1 - share) * softplus(-z) + share * np.exp(-z)

    return P * one(z) + (1 - P) * one(-z)


def tdpo2():
    """A zero of the gradient, which is not that of the value: the third answer stays, the first two exchange x."""

    def rising(x):
        z = BETA * (np.log1p(x / REFERENCE[0]) - np.log1p(-x / REFERENCE[1]))
        right, wrong = P * sigmoid(-z), (1 - P) * sigmoid(z)
        return 0.5 * (right + wrong) * x - (right - wrong)

    x = root(rising, 0.0, REFERENCE[1] - 1e-12)
    return np.log1p(x / REFERENCE[0]) - np.log1p(-x / REFERENCE[1])


def bent(trained, alpha=0.25):
    reward = -np.expm1(-alpha * trained.average_logps) / alpha
    return reward[0] - reward[1]


def drifts(trained):
    """1 where the margin is large and still growing: no optimum."""
    before = trained.halfway[0] - trained.halfway[1]
    return float(trained.margin > 5 and trained.margin > before + 0.1)


DPO = Row(margin, LOGIT / BETA)
NEAR = np.linspace(0.2, 5.0, 48001)
ROWS: dict[str, Row] = {
    "sigmoid": DPO,
    "sigmoid_norm": Row(lambda t: t.average_margin, LOGIT / BETA),
    "ipo": Row(lambda t: t.average_margin, (P - 0.5) / BETA),
    "hinge": Row(margin, 1 / BETA, 5e-3),
    # Of pairs as labelled (1 - ε)q + ε(1 - q) = p, q the probability without flips.
    "robust": Row(margin, np.log(0.875 / 0.125) / BETA, settings={"label_smoothing": 0.1}),
    "exo_pair": Row(margin, (2 * P - 1) * np.log(99) / BETA, settings={"label_smoothing": 0.01}),
    "nca_pair": Row(both, (np.log(2 * P) / BETA, np.log(2 * (1 - P)) / BETA)),
    "bco_pair": Row(both, (LOGIT / BETA, -LOGIT / BETA)),
    "apo_zero": Row(drifts, 1.0),
    "apo_down": Row(drifts, 1.0),
    "sppo_hard": Row(both, ((P - 0.5) / BETA, (0.5 - P) / BETA)),
    # Started beyond the hump; from π = π₀ it would stay in a local minimum on the wrong side of 0.
    "discopop": Row(margin, NEAR[np.argmin(discopop(BETA * NEAR))] / BETA, start=1.0),
    "aot": DPO,  # the reference ranks the pairs as the policy does
    "aot_unpaired": Row(drifts, 1.0),  # the two kinds of completions are told apart, not the pairs
    "rpo": Row(share, lowest(either(rpo))),
    "cpo": Row(share, lowest(either(cpo))),
    "simpo": Row(lambda t: t.average_logps[0] - t.average_logps[1], with_gamma(0.5) / BETA),
    "alphapo": Row(bent, with_gamma(0.5) / BETA),
    "orpo": Row(share, lowest(either(orpo))),
    # β = β₀(1 + α(2p - 1)Δ), and βΔ = logit(p).
    "dynamic_beta": Row(margin, root(lambda gap: BETA * (1 + 0.6 * (2 * P - 1) * gap) * gap - LOGIT, 0.0)),
    "bco_pair_shift": Row(margin, 2 * LOGIT / BETA),
    "dpop": DPO,  # both answers can be at least as likely as they were
    "odpo": Row(margin, with_gamma(OFFSET) / BETA),
    "length_regularised_dpo": Row(margin, (LOGIT - 0.05 * (LENGTHS[0] - LENGTHS[1])) / BETA),
    "iterated_dpo": Row(share, lowest(either(iterated))),
    "tdpo1": DPO,  # both answers begin in one state, so that the divergences cancel
    "tdpo2": Row(margin, tdpo2()),
    "sppo": Row(both, ((P - 0.5) / BETA, (0.5 - P) / BETA)),
    "dno": Row(margin, (WIN_RATES[0] - WIN_RATES[1]) / BETA),
    "dno_prct": DPO,
    "cpl": Row(lambda t: np.log(t.policy[0] / t.policy[1]), LOGIT / BETA),
    "slic": Row(share, lowest(either(slic)), 5e-3),
    "unlikelihood": Row(lambda t: t.policy[:2], (P, 1 - P), 5e-3),  # what is left goes as 1/steps
}
LINKS = {
    "forward_kl": forward_kl_link,
    "js": jensen_shannon_link,
    "alpha": partial(alpha_link, alpha=0.5),
}


def loss_of(paired, logits, link=None, **settings):
    """The population loss of one policy."""
    logp, reference = jax.nn.log_softmax(logits), jnp.log(jnp.asarray(REFERENCE, jnp.float32))
    lengths, win_rates = jnp.asarray(LENGTHS, jnp.float32), jnp.asarray(WIN_RATES, jnp.float32)

    def of_both(values):
        return jnp.stack([values[CHOSEN], values[REJECTED]], axis=1)

    places = jnp.arange(3)
    first = (places == 0).astype(jnp.float32)
    kl = jnp.sum(jnp.exp(reference) * (reference - logp))
    sides = {
        "logp": of_both(logp),
        "reference_logp": of_both(reference),
        "length": of_both(lengths),
        "logps": of_both(logp)[..., None] * first[None, None, :],
        "mask": (places[None, None, :] < of_both(lengths)[..., None]).astype(jnp.float32),
        "kl": jnp.full((5, 2), kl),
    }
    words = {
        "mean_length": jnp.full(5, MEAN_LENGTH),
        "offset": jnp.full(5, OFFSET),
        "chosen_win_rate": win_rates[CHOSEN],
        "rejected_win_rate": win_rates[REJECTED],
    }
    if paired.statistics is not None:
        ratios = of_both(logp - reference)
        words |= call_by_name(
            paired.statistics,
            chosen_logratio=ratios[:, 0],
            rejected_logratio=ratios[:, 1],
            mask=jnp.ones(5),
            beta=BETA,
        )
    numbers = {"beta": BETA, "likelihood": paired.likelihood, "link": link, **settings}
    return jnp.mean(paired_terms(paired, sides, jnp.ones(5), words=words, **numbers)["loss"])


@cache
def trained() -> dict[str, Trained]:
    """All of them at once: every policy has parameters of its own, so that the losses simply add up."""
    sigmoid_loss = PAIRED_LOSSES["sigmoid"]
    losses = {name: partial(loss_of, paired, **ROWS[name].settings) for name, paired in PAIRED_LOSSES.items()}
    losses |= {f"sigmoid {name}": partial(loss_of, sigmoid_loss, link=link) for name, link in LINKS.items()}
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, STEPS))

    @jax.jit
    def train(policies):
        def step(carry, _):
            policies, state = carry
            grads = jax.grad(lambda p: sum(loss(p[name]) for name, loss in losses.items()))(policies)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(policies, updates), state), None

        halfway, _ = jax.lax.scan(step, (policies, optimizer.init(policies)), None, STEPS // 2)
        (ended, _), _ = jax.lax.scan(step, halfway, None, STEPS // 2)
        return halfway[0], ended

    def start(name):
        shift = ROWS[name].start if name in ROWS else 0.0
        return jnp.asarray(np.log(REFERENCE) + np.array([shift, 0.0, 0.0]), jnp.float32)

    def logps(logits):
        logits = np.asarray(logits, np.float64)
        return logits - np.logaddexp.reduce(logits)

    halfway, ended = train({name: start(name) for name in losses})
    return {
        name: Trained(
            np.exp(logps(ended[name])),
            logps(ended[name]) - np.log(REFERENCE),
            logps(halfway[name]) - np.log(REFERENCE),
        )
        for name in losses
    }


def test_every_loss_has_a_row():
    assert set(ROWS) == set(PAIRED_LOSSES)


@pytest.mark.parametrize("name", ROWS)
def test_the_known_optimum_is_reached(name):
    row = ROWS[name]
    np.testing.assert_allclose(row.measured(trained()[name]), row.optimum, rtol=0, atol=row.tolerance)


@pytest.mark.parametrize("name", LINKS)
def test_the_optimum_under_another_divergence(name):
    scores = LINKS[name](jnp.asarray(trained()[f"sigmoid {name}"].logratio, jnp.float32))
    assert float(scores[0] - scores[1]) == pytest.approx(LOGIT / BETA, abs=2e-3)
