"""Judges: antisymmetric whatever their parameters, transitive or not by their form, and able to learn a cycle."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import preference_judge, preference_objective, reward_judge, reward_objective
from prefjax.align.judges import antisymmetric_score
from prefjax.policy import scores
from prefjax.types import mean_of
from tests.align.test_rows import COMPLETION, padded
from tests.policy.goldens import tiny

FIRST = [([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9, 10, 1, 2], [3, 4, 5, 6]), ([5, 5, 5], [9])]
SECOND = [([1, 2], [4]), ([6], [1, 7, 2, 8]), ([8, 9, 10, 1, 2], [10, 10]), ([5, 5, 5], [4, 4, 4])]
THIRD = [([1, 2], [9, 9]), ([6], [3]), ([8, 9, 10, 1, 2], [5]), ([5, 5, 5], [1, 2, 3, 4])]


@cache
def judge_of(form):
    """A judge, jitted, with the policy and the parameters of its model."""
    policy, params = tiny(num_layers=1, seed=2, num_scores=4 if form == "bilinear" else 1)
    if form == "reward":
        return jax.jit(reward_judge(policy)), policy, params
    return jax.jit(preference_judge(policy, form=form, max_completion=COMPLETION)), policy, params


def logit(p):
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("form", ["reward", "joint", "bilinear"])
def test_changing_places_turns_the_preference_around(form):
    judge, _, params = judge_of(form)
    a, b = padded(FIRST, fill=7), padded(SECOND)
    forth, back = judge(params, a, b), judge(params, b, a)
    assert forth.shape == (4,)
    assert float(jnp.abs(forth - 0.5).max()) > 0.05
    np.testing.assert_allclose(forth + back, 1, atol=1e-6)
    np.testing.assert_allclose(judge(params, a, a), 0.5, atol=1e-6)


@pytest.mark.parametrize("form", ["reward", "joint", "bilinear"])
def test_padding_is_not_judged(form):
    judge, _, params = judge_of(form)
    got = judge(params, padded(FIRST, width=13, fill=7), padded(SECOND, width=13, fill=3))
    np.testing.assert_allclose(got, judge(params, padded(FIRST), padded(SECOND)), atol=1e-5)


def score_of(policy, params, tokens):
    """The scores of one row, read on its own and not padded further than the model's shapes need."""
    row = jnp.zeros((1, 16), jnp.int32).at[0, : len(tokens)].set(jnp.array(tokens))
    return np.asarray(jax.jit(scores)(policy, params, row, jnp.array([len(tokens)])), np.float64)[0]


def test_a_reward_judge_compares_two_numbers_and_is_transitive():
    judge, policy, params = judge_of("reward")
    p = judge(params, padded(FIRST), padded(SECOND))
    want = [
        score_of(policy, params, x + y)[0] - score_of(policy, params, x + z)[0]
        for (x, y), (_, z) in zip(FIRST, SECOND, strict=True)
    ]
    np.testing.assert_allclose(logit(p), want, atol=2e-5)
    q = judge(params, padded(SECOND), padded(THIRD))
    r = judge(params, padded(FIRST), padded(THIRD))
    np.testing.assert_allclose(logit(p) + logit(q), logit(r), atol=2e-5)


def test_a_joint_judge_reads_both_completions_in_both_orders():
    judge, policy, params = judge_of("joint")
    p = judge(params, padded(FIRST), padded(SECOND))
    want, one_order = [], []
    for (x, y), (_, z) in zip(FIRST, SECOND, strict=True):
        forth, back = (score_of(policy, params, x + a + b)[0] for a, b in ((y, z), (z, y)))
        want.append((forth - back) / 2)
        one_order.append(forth)
    np.testing.assert_allclose(logit(p), want, atol=2e-5)
    assert np.abs(np.subtract(want, one_order)).max() > 0.05


def test_a_bilinear_judge_is_the_cross_product_of_two_readings():
    judge, policy, params = judge_of("bilinear")
    p = judge(params, padded(FIRST), padded(SECOND))
    for got, (x, y), (_, z) in zip(logit(p), FIRST, SECOND, strict=True):
        v, w = score_of(policy, params, x + y), score_of(policy, params, x + z)
        assert got == pytest.approx(v[0] * w[1] - v[1] * w[0] + v[2] * w[3] - v[3] * w[2], abs=2e-5)


def test_the_bilinear_form_contains_bradley_terry_and_rock_paper_scissors():
    r = jnp.array([2.0, -0.5, 0.25])
    v = jnp.stack([r, jnp.ones(3)], axis=-1)
    every = antisymmetric_score(v[:, None].repeat(3, axis=1), v[None].repeat(3, axis=0))
    np.testing.assert_allclose(every, r[:, None] - r[None, :], atol=1e-6)

    angle = 2 * jnp.pi * jnp.arange(3) / 3
    v = 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    np.testing.assert_allclose(antisymmetric_score(v, jnp.roll(v, -1, axis=0)), 2 * math.sqrt(3), atol=1e-5)


# 1 ≻ 2 ≻ 3 ≻ 1, after one prompt.
WINNERS, LOSERS = ([([4], [token, 0]) for token in tokens] for tokens in ((1, 2, 3), (2, 3, 1)))
CYCLE = {"weight": jnp.ones(3), "chosen": padded(WINNERS, width=3), "rejected": padded(LOSERS, width=3)}


@partial(jax.jit, static_argnames=("objective", "steps"))
def losses_of_training(objective, params, *, steps):
    optimizer = optax.adam(0.01)

    def loss(params):
        return mean_of(objective(params, CYCLE, jax.random.key(0)))["loss"]

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[1]


@pytest.mark.parametrize("form", ["joint", "bilinear"])
def test_a_two_input_model_learns_a_cycle(form):
    policy, params = tiny(num_layers=1, scale=4.0, num_scores=2 if form == "bilinear" else 1)
    objective = preference_objective(policy, form=form, max_completion=2)
    losses = losses_of_training(objective, params, steps=60)
    assert float(losses[-1]) < 0.2


def test_no_reward_learns_a_cycle():
    policy, params = tiny(num_layers=1, scale=4.0, num_scores=1)
    losses = losses_of_training(reward_objective(policy), params, steps=60)
    # Margins around a cycle sum to 0, so by Jensen no reward is better than none; training finds none.
    assert float(losses.min()) >= math.log(2) - 1e-6
    assert float(losses[0]) > math.log(2) + 1e-3
    assert float(losses[-1]) == pytest.approx(math.log(2), abs=2e-3)


@pytest.mark.parametrize("form", ["reward", "joint", "bilinear"])
def test_objectives_are_the_cross_entropy_of_their_judge(form):
    judge, policy, params = judge_of(form)
    batch = {
        "weight": jnp.array([1.0, 1.0, 0.0, 1.0]),
        "chosen": padded(FIRST),
        "rejected": padded(SECOND),
    }
    objective = (
        reward_objective(policy)
        if form == "reward"
        else preference_objective(policy, form=form, max_completion=COMPLETION)
    )
    means = mean_of(jax.jit(objective)(params, batch, jax.random.key(0)))
    p = np.asarray(judge(params, batch["chosen"], batch["rejected"]), np.float64)[[0, 1, 3]]
    assert means["loss"] == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert means["margin"] == pytest.approx(logit(p).mean(), abs=1e-5)
    assert means["accuracy"] == pytest.approx((p > 0.5).mean())
    same = mean_of(objective(params, {**batch, "rejected": batch["chosen"]}, jax.random.key(0)))
    assert same["accuracy"] == pytest.approx(0.5)  # a tie is half right
    assert same["loss"] == pytest.approx(math.log(2), rel=1e-6)
