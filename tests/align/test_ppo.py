"""PPO: exact gradients by enumeration, advantages against plain loops, updates that use every row as often."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align.advantages import token_mask
from prefjax.align.ppo import (
    add_ppo_advantages,
    ppo_objective,
    ppo_updates,
    with_value_head,
)
from prefjax.align.rollout import rollout
from prefjax.checks import InputError
from prefjax.train import copied, init_state, make_mesh, make_step
from tests.align.enumerated import (
    LENGTHS,
    ROOM,
    STOP,
    assert_gradient,
    assert_same_step,
    cut,
    drawn,
    every_group,
    exact_logp,
    flat,
    gradient,
    policy_and_reference,
    prompts_of,
    step_gradient,
    token_logps,
    which,
)
from tests.align.test_policy_gradient import BETA, exact_gradient, with_rewards


def with_critic(params, seed=0):
    """A value head that says something."""
    policy, _, _ = policy_and_reference()
    whole = with_value_head(policy, params)
    weight = 0.3 * jax.random.normal(jax.random.key(seed), whole["value"]["weight"].shape)
    return {**whole, "value": {"weight": weight, "bias": jnp.array([0.2])}}


@partial(jax.jit, static_argnames=("policy", "settings"))
def finished(policy, params, batch, settings=()):
    return add_ppo_advantages(policy, max_new_tokens=ROOM, **dict(settings))(params, batch)


def test_at_ratio_1_the_policy_follows_the_gradient_of_reward_less_the_price_of_kl():
    """With λ = 1 the values are but a baseline, and without whitening nothing else is in the way."""
    policy, params, reference = policy_and_reference()
    batch = with_rewards(every_group(policy, params, 1), policy, reference)
    batch = finished(policy, with_critic(params), batch, (("beta", BETA), ("lambda_", 1.0)))
    rows = batch["completion"]
    # Whitening undone: it is (A - mean) / deviation, and returns = A + V.
    rows["advantages"] = rows["returns"] - rows["values"]
    objective = ppo_objective(policy, max_new_tokens=ROOM, vf_coef=0.0)
    got, means = gradient(objective, with_critic(params), batch)
    length = float(jnp.exp(exact_logp(policy, params)) @ LENGTHS)
    assert_gradient(got["policy"], jax.tree.map(lambda g: g / length, exact_gradient(params, BETA)))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(got["value"])) == 0
    assert means["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert means["policy/clipfrac_avg"] == means["val/clipfrac_avg"] == 0
    logp = exact_logp(policy, params)
    kl = float(jnp.exp(logp) @ (logp - exact_logp(policy, reference)))
    assert means["objective/kl"] == pytest.approx(kl, abs=1e-5)


def test_advantages_are_those_of_a_plain_loop():
    policy, params, reference = policy_and_reference()
    batch = with_rewards(drawn(policy, params, 16, microbatches=2), policy, reference)
    batch["weight"] = batch["weight"].at[1, -1].set(0.0)
    batch["reward"] = batch["reward"].at[0, 0].set(jnp.nan).at[1, -1].set(jnp.nan)
    settings = (("beta", BETA), ("gamma", 0.9), ("lambda_", 0.8))
    done = finished(policy, with_critic(params), batch, settings)
    rows = flat(done)["completion"]
    mask = np.asarray(token_mask(rows, width=ROOM))
    old, new = (np.asarray(rows[name], np.float64) for name in ("reference_logps", "behaviour_logps"))
    values, lengths = np.asarray(rows["values"], np.float64), mask.sum(1).astype(int)
    want = np.zeros_like(values)
    for i, n in enumerate(lengths):
        following = 0.0
        for t in reversed(range(n)):
            reward = -BETA * (new[i, t] - old[i, t]) + (
                np.asarray(batch["reward"]).reshape(-1)[i] if t == n - 1 else 0
            )
            ahead = values[i, t + 1] if t + 1 < n else 0.0
            following = reward + 0.9 * ahead - values[i, t] + 0.9 * 0.8 * following
            want[i, t] = following
    keep = np.ones(16, bool)
    keep[[0, 15]] = False
    np.testing.assert_allclose((rows["returns"] - rows["values"])[keep], want[keep], atol=1e-5)
    among = want[keep][mask[keep] > 0]
    whitened = (want - among.mean()) / np.sqrt(among.var(ddof=1) + 1e-8) * mask
    np.testing.assert_allclose(np.asarray(rows["advantages"])[keep], whitened[keep], atol=1e-4)
    # nan and filling rows: weight 0, and nothing that is no number.
    assert np.asarray(done["weight"])[0, 0] == 0
    assert np.isfinite(np.asarray(rows["advantages"])).all()
    whole = finished(policy, with_critic(params), cut(flat(batch), 1), settings)
    for a, b in zip(jax.tree.leaves(flat(whole)), jax.tree.leaves(flat(done)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.asarray(rows["values"]).std() > 0.1


def test_a_new_head_says_0():
    policy, params, reference = policy_and_reference()
    batch = with_rewards(drawn(policy, params, 16, microbatches=2), policy, reference)
    done = finished(policy, with_value_head(policy, params), batch)
    np.testing.assert_array_equal(done["completion"]["values"], 0)


def test_every_epoch_goes_through_every_row_once_whatever_the_cut():
    batch = {"index": jnp.arange(24).reshape(2, 12), "weight": jnp.ones((2, 12))}
    updates = ppo_updates(batch, jax.random.key(0), epochs=3, minibatches=2)
    assert updates["index"].shape == (6, 1, 12)
    epochs = np.asarray(updates["index"]).reshape(3, 24)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(24))] * 3
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    other = cut(flat(batch), 4)
    again = ppo_updates(other, jax.random.key(0), epochs=3, minibatches=2, microbatches=3)
    assert again["index"].shape == (6, 3, 4)
    np.testing.assert_array_equal(again["index"].reshape(-1), updates["index"].reshape(-1))
    with pytest.raises(InputError, match="24 rows in 5 minibatches"):
        ppo_updates(batch, jax.random.key(0), minibatches=5)


def test_neither_microbatches_nor_devices_nor_filling_rows_can_be_seen():
    policy, params, reference = policy_and_reference()
    batch = with_rewards(drawn(policy, params, 16), policy, reference)
    batch["weight"] = batch["weight"].at[:, 12:].set(0.0)
    batch = flat(finished(policy, with_critic(params), batch))
    moved = with_critic(jax.tree.map(lambda a, b: a + 0.1 * b, params, reference))
    objective = ppo_objective(policy, max_new_tokens=ROOM, cliprange_value=0.35)
    alone = step_gradient(objective, moved, batch, 1)
    assert 0 < alone[0]["policy/clipfrac_avg"] < 1
    assert 0 < alone[0]["val/clipfrac_avg"] < 1
    for name in ("behaviour_logps", "values", "returns", "advantages"):
        batch["completion"][name] = batch["completion"][name].at[12:].set(jnp.nan)
    assert_same_step(step_gradient(objective, moved, batch, 2, data=4, fsdp=2), alone)
    # The losses once more, in plain float64.
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[:12], np.float64), batch["completion"])
    mask = np.arange(ROOM) < (rows["lengths"] - rows["prompt_lengths"])[:, None]
    numbers = np.asarray(which(batch["completion"]))[:12]
    ratio = np.exp(np.asarray(token_logps(policy, moved["policy"]))[numbers] - rows["behaviour_logps"])[mask]
    a = rows["advantages"][mask]
    surrogate = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
    assert alone[0]["loss/policy_avg"] == pytest.approx(surrogate, abs=1e-4)
    assert alone[0]["loss"] == pytest.approx(surrogate + 0.1 * float(alone[0]["loss/value_avg"]), abs=1e-4)


def test_from_samples_the_reward_rises_and_values_are_learned():
    """The reward is how many tokens of the completion are 1; four updates a rollout, through the training step."""
    policy, start, _ = policy_and_reference(4.0)
    mesh, optimizer = make_mesh(), optax.adam(0.01)
    state = init_state(jax.tree.map(jnp.array, with_value_head(policy, start)), optimizer, jax.random.key(0))
    objective = ppo_objective(policy, max_new_tokens=ROOM)
    step = make_step(objective, optimizer, copied(state, mesh), mesh, updates=4)
    roll = rollout(policy, num_samples=1, max_new_tokens=ROOM, stop_tokens=(STOP,))
    add = add_ppo_advantages(policy, max_new_tokens=ROOM, beta=0.0)

    @jax.jit
    def prepare(params, key):
        batch = roll(params["policy"], prompts_of(64), key)
        tokens = batch["completion"]["tokens"][..., 2:]
        batch = {**batch, "reward": jnp.sum(tokens == 1, axis=-1).astype(jnp.float32)}
        return ppo_updates(add(params, batch), jax.random.fold_in(key, 1))

    seen = []
    for i in range(25):
        state, means = step(state, prepare(state.params, jax.random.fold_in(jax.random.key(3), i)))
        seen.append({name: float(value) for name, value in means.items()})
    assert seen[0]["reward"] < 1.0
    assert seen[-1]["reward"] > 1.8
    assert seen[-1]["loss/value_avg"] < 0.3 * seen[0]["loss/value_avg"]
    assert int(state.step) == 25
