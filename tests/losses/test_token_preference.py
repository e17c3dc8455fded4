"""TDPO on a language small enough to write out: the advantages it fits, where it rests, and its limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import dpo_loss, kl_exact, tdpo1_loss, tdpo2_loss

VOCABULARY, BETA = 3, 0.4
SEQUENCES = np.array(list(itertools.product(range(VOCABULARY), repeat=2)))
# A row of logits for the empty prefix, and one for each first token.
PREFIXES = np.stack([np.zeros(9, int), 1 + SEQUENCES[:, 0]], axis=1)


def drawn(seed):
    """Logits of the reference, and a reward of each sequence."""
    keys = jax.random.split(jax.random.key(seed))
    return (
        jax.random.normal(keys[0], (4, VOCABULARY), jnp.float64),
        jax.random.normal(keys[1], (9,), jnp.float64),
    )


def advantages(reference, reward):
    """A(s, z) of every prefix and token under the reference, by expectation, and the value of the start."""
    policy = jax.nn.softmax(reference)
    ends = reward.reshape(VOCABULARY, VOCABULARY)  # after both tokens
    values = jnp.sum(policy[1:] * ends, axis=-1)  # of each first token
    start = policy[0] @ values
    return jnp.concatenate([(values - start)[None], ends - values[:, None]]), start


def ratio_and_kl(logits, reference):
    logps = jax.nn.log_softmax(logits) - jax.nn.log_softmax(reference)
    return logps[PREFIXES, SEQUENCES].sum(axis=-1), kl_exact(reference, logits)[PREFIXES].sum(axis=-1)


def test_log_ratio_and_divergence_of_the_best_tokens_are_their_advantages():
    with jax.enable_x64(True):
        reference, reward = drawn(0)
        advantage, start = advantages(reference, reward)
        best = jax.nn.log_softmax(reference) + advantage / BETA  # maximises A - β KL(π‖π₀) at every prefix
        ratio, kl = ratio_and_kl(best, reference)
        # Summed over a sequence, advantages are its reward less the value of the start.
        np.testing.assert_allclose(BETA * (ratio + kl), reward - start, rtol=1e-12)
        assert float(kl.max()) > 0.1


def test_tdpo1_rests_there_and_dpo_does_not():
    first, second = (np.array(i) for i in zip(*itertools.combinations(range(9), 2), strict=True))
    with jax.enable_x64(True):
        reference, reward = drawn(0)
        best = jax.nn.log_softmax(reference) + advantages(reference, reward)[0] / BETA
        wins = jax.nn.sigmoid(reward[first] - reward[second])

        def mean(logits, loss):
            ratio, kl = ratio_and_kl(logits, reference)

            def one_way(a, b):
                return loss(ratio[a], ratio[b], kl[a], kl[b], beta=BETA)

            return jnp.mean(wins * one_way(first, second) + (1 - wins) * one_way(second, first))

        def dpo(chosen, rejected, *_, beta):
            return dpo_loss(chosen, rejected, beta=beta)

        np.testing.assert_allclose(jax.grad(mean)(best, tdpo1_loss), 0.0, atol=1e-12)
        assert float(jnp.abs(jax.grad(mean)(best, dpo)).max()) > 1e-3
        assert float(jnp.abs(jax.grad(mean)(reference, tdpo1_loss)).max()) > 1e-3


def test_values_and_gradients_by_hand():
    pair = tuple(jnp.float32(x) for x in (1.0, -0.5, 0.3, 0.8))
    # z = .1 (1.5 - .5) = .1; σ(-.1) = .47502081.
    value, gradient = jax.value_and_grad(lambda p: tdpo1_loss(*p, beta=0.1))(pair)
    assert float(value) == pytest.approx(0.64439666, rel=1e-6)
    np.testing.assert_allclose(gradient, 0.047502081 * np.array([-1, 1, -1, 1]), rtol=1e-5)
    # z = .1 (1.5 - .25) = .125; σ(-.125) = .46879063.
    value, gradient = jax.value_and_grad(lambda p: tdpo2_loss(*p, beta=0.1, alpha=0.5))(pair)
    assert float(value) == pytest.approx(np.log1p(np.exp(-0.125)), rel=1e-6)
    np.testing.assert_allclose(gradient, 0.046879063 * np.array([-1, 1, 0, 0.5]), rtol=1e-5)


@jax.jit
def both_sides(chosen, rejected, kl, other, beta):
    ratios = chosen, rejected
    plain = dpo_loss(*ratios, beta=beta)
    return {
        "one divergence": (tdpo1_loss(*ratios, kl, kl, beta=beta), plain),
        "alpha 0": (tdpo2_loss(*ratios, kl, other, beta=beta, alpha=0.0), plain),
        "alpha 1": (
            tdpo2_loss(*ratios, kl, other, beta=beta, alpha=1.0),
            tdpo1_loss(*ratios, kl, other, beta=beta),
        ),
    }


NUMBERS = st.floats(-30, 30).map(np.float32)


@settings(max_examples=30, deadline=None)
@given(NUMBERS, NUMBERS, st.floats(0, 20).map(np.float32), st.floats(0, 20).map(np.float32))
def test_relatives(chosen, rejected, kl, other):
    for name, (found, expected) in both_sides(chosen, rejected, kl, other, 0.3).items():
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
