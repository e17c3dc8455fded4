"""Rollouts: who draws what, how groups lie in a batch, and rewards from models, judges and functions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align.judges import rewards
from prefjax.align.rollout import (
    add_logps,
    judge_rewards,
    missing_stop_penalty,
    model_rewards,
    rollout,
    weighted_rewards,
)
from prefjax.train import make_mesh, place
from tests.align.enumerated import (
    ROOM,
    STOP,
    N,
    drawn,
    exact_logp,
    flat,
    policy_and_reference,
    prompts_of,
    tiny,
    which,
)
from tests.align.test_nash_md import by_table, cyclic


@partial(jax.jit, static_argnames=("policy", "num_samples", "settings"))
def rolled(policy, params, batch, key, num_samples=4, settings=()):
    roll = rollout(
        policy, num_samples=num_samples, max_new_tokens=ROOM, stop_tokens=(STOP,), **dict(settings)
    )
    return roll(params, batch, key)


def test_completions_follow_the_policy_and_siblings_are_independent():
    policy, params, _ = policy_and_reference()
    batch = flat(rolled(policy, params, prompts_of(8192), jax.random.key(5), num_samples=2))
    numbers = np.asarray(which(batch["completion"])).reshape(-1, 2)
    p = np.exp(exact_logp(policy, params))
    for column in numbers.T:
        assert np.abs(np.bincount(column, minlength=N) / len(column) - p).sum() / 2 < 0.03
    assert np.mean(numbers[:, 0] == numbers[:, 1]) == pytest.approx(float(p @ p), abs=0.02)
    logps = np.asarray(batch["completion"]["behaviour_logps"]).sum(axis=1)
    np.testing.assert_allclose(logps, np.log(p)[numbers.reshape(-1)], atol=1e-5)
    np.testing.assert_array_equal(batch["completion"]["stopped"], numbers.reshape(-1) < 4)


def test_groups_are_neighbours_and_neither_microbatches_nor_devices_change_a_draw():
    policy, params, _ = policy_and_reference()
    batch, key = prompts_of(16), jax.random.key(7)
    whole = flat(rolled(policy, params, batch, key))
    assert np.asarray(whole["index"]).tolist() == np.repeat(np.arange(16), 4).tolist()
    parts = rolled(policy, params, prompts_of(16, 2), key)
    assert parts["completion"]["tokens"].shape == (2, 32, 4)
    np.testing.assert_array_equal(flat(parts)["completion"]["tokens"], whole["completion"]["tokens"])
    placed = place(jax.tree.map(lambda leaf: leaf[0], batch), make_mesh(data=4, fsdp=2), 2)
    spread = rolled(policy, params, placed, key)
    np.testing.assert_array_equal(spread["completion"]["tokens"], parts["completion"]["tokens"])
    assert len(set(np.asarray(which(whole["completion"])).tolist())) > 3


@pytest.mark.parametrize(
    "settings", [(("temperature", 0.7),), (("temperature", 1.5), ("top_k", 2), ("top_p", 0.9))]
)
def test_behaviour_logps_are_those_of_the_policy_at_the_sampling_temperature(settings):
    """Also where top-k and top-p leave tokens out, so that the ratio to them starts at 1."""
    policy, params, _ = policy_and_reference()
    batch = rolled(policy, params, prompts_of(32, 2), jax.random.key(1), settings=settings)
    temperature = dict(settings).get("temperature", 1.0)
    again = add_logps(policy, name="again", max_new_tokens=ROOM, temperature=temperature)(params, batch)
    rows = again["completion"]
    np.testing.assert_allclose(rows["behaviour_logps"], rows["again"], atol=1e-5)
    assert float(rows["again"].min()) < -0.1


def test_rewards_of_a_model_are_its_scores():
    policy, params, _ = policy_and_reference()
    batch = drawn(policy, params, 16, microbatches=2)
    model, model_params = tiny(seed=5, vocab_size=4, num_layers=1, num_scores=1)
    scored = jax.jit(model_rewards(model))(model_params, batch)
    want = rewards(model, model_params, flat(batch)["completion"])
    np.testing.assert_allclose(scored["reward"].reshape(-1), want, atol=1e-5)
    assert float(jnp.std(want)) > 0.01


@pytest.mark.parametrize("num_samples", [2, 3])
def test_rewards_of_a_judge_are_mean_preferences_over_the_others(num_samples):
    policy, params, _ = policy_and_reference()
    batch = drawn(policy, params, 12, microbatches=2)
    judged = jax.jit(judge_rewards(by_table, num_samples=num_samples))(cyclic(), batch)
    table = np.asarray(cyclic())
    groups = np.asarray(which(flat(batch)["completion"])).reshape(-1, num_samples)
    want = [
        [np.mean([table[a, b] for j, b in enumerate(g) if j != i]) for i, a in enumerate(g)] for g in groups
    ]
    np.testing.assert_allclose(judged["reward"].reshape(-1, num_samples), want, atol=1e-6)
    np.testing.assert_allclose(np.mean(want, axis=1), 0.5, atol=1e-6)


def test_rewards_of_functions_are_weighed_and_nan_takes_no_part():
    given = jnp.array([[1.0, 2.0], [jnp.nan, 2.0], [jnp.nan, jnp.nan]])
    np.testing.assert_array_equal(weighted_rewards(given, jnp.array([1.0, 0.5])), [2.0, 1.0, np.nan])
    np.testing.assert_array_equal(weighted_rewards(given), [3.0, 2.0, np.nan])


def test_penalty_for_no_stop():
    np.testing.assert_array_equal(missing_stop_penalty(jnp.array([1.0, 0.0]), penalty=2.0), [0, -2])
