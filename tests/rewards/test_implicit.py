"""The reward that a policy stands for, where reward and policy are both known."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.losses import dpo_loss
from prefjax.rewards import implicit_margin, implicit_reward, ranking_accuracy

REWARD, REFERENCE, BETA = np.array([0.7, -0.1, 0.2, 0.5]), np.array([0.4, 0.3, 0.2, 0.1]), 0.5


def test_of_the_best_policy_it_is_the_reward_less_a_constant_of_the_prompt():
    partition = REFERENCE @ np.exp(REWARD / BETA)
    policy = REFERENCE * np.exp(REWARD / BETA) / partition
    ratio = jnp.asarray(np.log(policy / REFERENCE), jnp.float32)
    found = implicit_reward(ratio, beta=BETA)
    np.testing.assert_allclose(found, REWARD - BETA * np.log(partition), atol=1e-6)
    margins = implicit_margin(ratio, ratio[::-1], beta=BETA)
    np.testing.assert_allclose(margins, REWARD - REWARD[::-1], atol=1e-6)
    assert float(jax.grad(lambda r: implicit_reward(r, beta=BETA))(ratio[0])) == BETA
    slopes = jax.grad(lambda p: implicit_margin(*p, beta=BETA))((ratio[0], ratio[1]))
    np.testing.assert_array_equal(slopes, (BETA, -BETA))


@settings(max_examples=30, deadline=None)
@given(*[st.floats(-30, 30, width=32, allow_subnormal=False).map(np.float32)] * 2)
def test_relatives(chosen, rejected):
    pair = jnp.float32(chosen), jnp.float32(rejected)
    margin = implicit_margin(*pair, beta=0.3)
    rewards = [implicit_reward(ratio, beta=0.3) for ratio in pair]
    np.testing.assert_allclose(margin, rewards[0] - rewards[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dpo_loss(*pair, beta=0.3), -jax.nn.log_sigmoid(margin), rtol=1e-6)
    assert float(ranking_accuracy(*rewards)) == (0.5 if chosen == rejected else float(chosen > rejected))


def test_bfloat16_is_widened_before_it_is_subtracted():
    rough = jnp.bfloat16(300.0), jnp.bfloat16(299.0)
    assert implicit_margin(*rough, beta=0.1).dtype == jnp.float32
    assert float(implicit_margin(jnp.zeros(2), jnp.ones(2), beta=0.1)[0]) == pytest.approx(-0.1)


def test_what_is_not_aligned_is_refused():
    with pytest.raises(InputError, match=r"implicit_margin: .*has shape"):
        inspect.unwrap(implicit_margin)(jnp.zeros((2, 1)), jnp.zeros(2), beta=0.1)
