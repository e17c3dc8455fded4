"""Policy gradients against exact ones by enumeration, TRL's numbers, hand-made ones, and no trace of the batching."""

import json
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import policy_gradient
from prefjax.align.advantages import add_grpo_advantages, add_rloo_advantages
from prefjax.align.grpo import clip_range, grpo_terms
from prefjax.align.policy_gradient import grpo_objective, reinforce_objective, rloo_objective
from prefjax.align.rollout import add_logps, rollout
from prefjax.checks import InputError
from prefjax.policy import hidden_states, logits
from prefjax.types import mean_of
from tests.align.enumerated import (
    EVERY,
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

REWARD = jax.random.normal(jax.random.key(2), (13,))
BETA = 0.3


def with_rewards(batch, policy, reference):
    reward = REWARD[which(flat(batch)["completion"])].reshape(batch["weight"].shape)
    return add_logps(policy, name="reference_logps", max_new_tokens=ROOM)(
        reference, {**batch, "reward": reward}
    )


@cache
def groups_of_two():
    policy, params, reference = policy_and_reference()
    return with_rewards(every_group(policy, params, 2), policy, reference)


@cache
def objective_of(make, **settings):
    """Made once, so that it is compiled once."""
    return make(policy_and_reference()[0], max_new_tokens=ROOM, **settings)


@jax.jit
def exact_gradient(params, beta=0.0):
    """∇(E[R] - β KL(π‖π₀)), in the direction of descent."""
    policy, _, reference = policy_and_reference()
    reference_logp = exact_logp(policy, reference)

    def loss(params):
        logp = exact_logp(policy, params)
        return -jnp.sum(jnp.exp(logp) * (REWARD - beta * (logp - reference_logp)))

    return jax.grad(loss)(params)


def test_rloo_follows_the_gradient_of_reward_less_the_price_of_kl():
    policy, params, reference = policy_and_reference()
    for make, beta in ((rloo_objective, 0.0), (rloo_objective, BETA), (reinforce_objective, BETA)):
        batch = add_rloo_advantages(num_samples=2, beta=beta)(groups_of_two())
        got, means = gradient(objective_of(make), params, batch)
        assert_gradient(got, exact_gradient(params, beta))
        assert means["ratio"] == pytest.approx(1, abs=1e-5)
    logp, p = exact_logp(policy, params), jnp.exp(exact_logp(policy, params))
    length = float(p @ LENGTHS)
    assert means["reward"] == pytest.approx(float(p @ REWARD), abs=1e-5)
    assert means["kl"] == pytest.approx(float(p @ (logp - exact_logp(policy, reference))) / length, abs=1e-5)
    assert means["completions/mean_length"] == pytest.approx(length, abs=1e-5)
    assert means["completions/clipped_ratio"] == pytest.approx(float(p[4:].sum()), abs=1e-5)
    entropy = -float(p @ token_logps(policy, params).sum(axis=1)) / length
    assert means["entropy"] == pytest.approx(entropy, abs=1e-5)


def test_unscaled_grpo_is_half_the_gradient_of_reward_over_the_length_that_it_divides_by():
    """(G - 1)/G of it, for G = 2."""
    policy, params, _ = policy_and_reference()
    batch = add_grpo_advantages(num_samples=2, scale_rewards="none")(groups_of_two())
    mean = float(jnp.exp(exact_logp(policy, params)) @ LENGTHS)
    for loss_type, length in (("dr_grpo", ROOM), ("dapo", mean)):
        objective = grpo_objective(policy, max_new_tokens=ROOM, loss_type=loss_type)
        got, means = gradient(objective, params, batch)
        assert_gradient(got, jax.tree.map(lambda g, by=length: g / (2 * by), exact_gradient(params)))
        assert means["ratio"] == pytest.approx(1, abs=1e-5)
        assert means["clip_ratio/region_mean"] == 0


def test_the_clip_of_a_loss_unless_given():
    assert clip_range("dapo", None, None) == (0.2, 0.2)
    assert clip_range("dapo", None, 0.28) == (0.2, 0.28)
    assert clip_range("gmpo", None, None) == (0.4, 0.4)
    assert clip_range("gspo", None, None) == (3e-4, 4e-4)
    assert clip_range("gspo", 0.1, None) == (0.1, 0.1)
    assert clip_range("gspo", 0.1, 0.3) == (0.1, 0.3)


@pytest.mark.parametrize("corrected", [True, False])
def test_the_kl_term_has_the_gradient_that_it_says(corrected):
    """Corrected: ∇KL(π‖π₀) of each next-token distribution, at prefixes that π visits. Not: ∇KL(π₀‖π)."""
    policy, params, reference = policy_and_reference()
    batch = add_grpo_advantages(num_samples=2, scale_rewards="none")(groups_of_two())
    batch["completion"]["advantages"] = jnp.zeros_like(batch["weight"])
    objective = grpo_objective(
        policy, max_new_tokens=ROOM, loss_type="dr_grpo", beta=BETA, use_bias_correction_kl=corrected
    )
    got, means = gradient(objective, params, batch)
    visited = jnp.exp(exact_logp(policy, params))
    # The two prefixes of a completion's tokens: the prompt, and its first token.
    real = jnp.arange(ROOM)[None, :] < LENGTHS[:, None]

    def following(params):
        hidden = hidden_states(policy, params, EVERY["tokens"], EVERY["lengths"])
        return jax.nn.log_softmax(logits(policy, params, hidden[:, 1:3]))

    def divergences(params):
        new, old = following(params), following(reference)
        return jnp.sum(jnp.exp(new) * (new - old), -1), jnp.sum(jnp.exp(old) * (old - new), -1)

    @jax.jit
    @jax.grad
    def exact(params):
        forward, backward = divergences(params)
        chosen = forward if corrected else backward
        return BETA * jnp.sum(visited[:, None] * jnp.where(real, chosen, 0.0)) / ROOM

    assert_gradient(got, exact(params))
    value = jnp.sum(visited[:, None] * jnp.where(real, divergences(params)[0], 0.0)) / (visited @ LENGTHS)
    assert means["kl"] == pytest.approx(float(value), abs=1e-5)


def test_group_advantages_by_hand():
    """Known answers of groups of four, G = 4; a nan takes no part."""
    policy, params, _ = policy_and_reference()
    batch = drawn(policy, params, 8, microbatches=2)
    batch["reward"] = jnp.array([[1, 0, 0.5, 0], [1, 1, 0, 1]])
    group = add_grpo_advantages(num_samples=4)(batch)
    np.testing.assert_allclose(
        group["completion"]["advantages"][0], [1.30530975, -0.78318585, 0.26106195, -0.78318585], atol=1e-6
    )
    scaled = add_grpo_advantages(num_samples=4, scale_rewards="batch")(batch)["completion"]["advantages"]
    np.testing.assert_allclose(scaled[0], [1.26105795, -0.75663477, 0.25221159, -0.75663477], atol=1e-6)
    np.testing.assert_allclose(scaled[1], [0.50442318, 0.50442318, -1.51326954, 0.50442318], atol=1e-6)
    left_out = add_rloo_advantages(num_samples=4, beta=0.0)(batch)["completion"]["advantages"]
    np.testing.assert_allclose(left_out[0], [0.83333333, -0.5, 0.16666667, -0.5], atol=1e-6)
    assert group["statistics"]["reward_std"][0, 0] == pytest.approx(0.4955156045, abs=1e-6)
    assert group["statistics"]["frac_reward_zero_std"].sum() == 0

    batch["reward"] = batch["reward"].at[0].set(jnp.array([1, jnp.nan, 1, 1]))
    lost = add_grpo_advantages(num_samples=4)(batch)
    np.testing.assert_array_equal(lost["completion"]["advantages"][0], 0)
    np.testing.assert_array_equal(lost["statistics"]["frac_reward_zero_std"], [[1] * 4, [0] * 4])
    # A row that only fills the batch changes no statistic.
    batch["weight"] = batch["weight"].at[0].set(0.0)
    for scale in ("group", "batch"):
        lone = add_grpo_advantages(num_samples=4, scale_rewards=scale)(batch)
        assert lone["statistics"]["reward_std"][0, 0] == pytest.approx(0.5)
        np.testing.assert_allclose(
            lone["completion"]["advantages"][1], np.array([1, 1, -3, 1]) / 4 / 0.5001, rtol=1e-6
        )


GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "align" / "trl.json").read_text())


@pytest.mark.parametrize("case", GOLDENS["grpo"], ids=lambda case: case["name"])
def test_the_terms_of_grpo_are_trls(case):
    arrays = {name: jnp.asarray(GOLDENS["arrays"][name], jnp.float32) for name in GOLDENS["arrays"]}
    learned = arrays["learned"] if case["masked"] else jnp.ones(len(arrays["learned"]))
    mask, count = arrays["mask"], len(learned)
    mean_length = jnp.full(count, jnp.sum(mask * learned[:, None]) / count)

    def means_of(logps):
        terms = grpo_terms(
            logps, arrays["reference_logps"], arrays["behaviour_logps"], arrays["advantages"], mask,
            jnp.ones(count), learned, mean_length, **case["settings"],
        )  # fmt: skip
        return mean_of(terms)

    grads, means = gradient_of(means_of, arrays["logps"])
    np.testing.assert_allclose(grads, case["gradient"], atol=1e-6)
    for name, value in case["metrics"].items():
        if case["settings"]["importance_sampling_level"] == "token" or not name.startswith("clip_ratio"):
            assert means[name] == pytest.approx(value, abs=2e-6), name
    assert means["loss"] == pytest.approx(case["loss"], abs=2e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_at_ratio_one_losses_of_one_average_cannot_be_told_apart(masked):
    """The first update after a rollout: of GRPO, SAPO, GSPO and GMPO; of DAPO, VESPO and CISPO; Dr. GRPO and LUSPO."""
    arrays = {name: jnp.asarray(GOLDENS["arrays"][name], jnp.float32) for name in GOLDENS["arrays"]}
    mask, ones = arrays["mask"], jnp.ones(len(arrays["mask"]))
    learned = arrays["learned"] if masked else ones

    def slopes(loss_type, scale=1.0):
        def loss(logps):
            terms = grpo_terms(
                logps, logps, arrays["logps"], arrays["advantages"], mask, ones, learned, 3 * ones,
                loss_type=loss_type, importance_sampling_level="sequence" if loss_type == "luspo" else "token",
                beta=0.0, use_bias_correction_kl=True, epsilon=0.2, epsilon_high=5.0, delta=None,
            )  # fmt: skip
            return scale * terms["loss"].mean()

        return jax.jit(jax.grad(loss))(arrays["logps"])

    for same in (("grpo", "sapo", "gspo", "gmpo"), ("dapo", "vespo", "cispo")):
        for loss_type in same[1:]:
            np.testing.assert_allclose(slopes(loss_type), slopes(same[0]), atol=1e-6, err_msg=loss_type)
    width = mask.shape[-1]
    np.testing.assert_allclose(slopes("luspo"), slopes("dr_grpo", width), atol=1e-6)
    assert np.abs(slopes("grpo")).max() > 1e-2


def test_the_objective_of_rloo_is_trls(monkeypatch):
    arrays = {name: jnp.asarray(values, jnp.float32) for name, values in GOLDENS["arrays"].items()}
    golden, mask, ones = GOLDENS["rloo"], arrays["mask"], jnp.ones(len(arrays["mask"]))
    rows = {
        "behaviour_logps": arrays["behaviour_logps"], "advantages": arrays["advantages"], "learned": ones,
        "stopped": ones, "prompt_lengths": 0 * ones, "lengths": jnp.sum(mask, axis=-1),
    }  # fmt: skip
    batch = {"weight": ones, "reward": ones, "completion": rows}
    # The log-probabilities stand for the parameters.
    monkeypatch.setattr(
        policy_gradient, "_forward", lambda policy, logps, *_: (logps, arrays["entropies"], mask)
    )
    objective = rloo_objective(
        policy_and_reference()[0],
        max_new_tokens=5,
        epsilon=golden["epsilon"],
        epsilon_high=golden["epsilon_high"],
    )
    gradient, means = gradient_of(lambda logps: mean_of(objective(logps, batch, None)), arrays["logps"])
    np.testing.assert_allclose(gradient, golden["gradient"], atol=1e-6)
    assert means["loss"] == pytest.approx(golden["loss"], abs=2e-6)
    for name, value in golden["metrics"].items():
        assert means[name] == pytest.approx(value, abs=2e-6), name
    entropy = float(jnp.sum(arrays["entropies"] * mask) / jnp.sum(mask))
    assert means["entropy"] == pytest.approx(entropy, abs=2e-6)


def gradient_of(means_of, at):
    def loss(at):
        means = means_of(at)
        return means["loss"], means

    return jax.jit(jax.grad(loss, has_aux=True))(at)


@cache
def finished(algorithm):
    """A rollout of eight groups of four with its advantages, [32, ...]; the last group only fills the batch."""
    policy, params, reference = policy_and_reference()
    batch = drawn(policy, params, 32)
    batch["weight"] = batch["weight"].at[:, 28:].set(0.0)
    batch = with_rewards(batch, policy, reference)
    batch["reward"] = batch["reward"].at[:, 28:].set(jnp.nan).at[:, 3].set(jnp.nan)
    add = {
        "grpo": add_grpo_advantages(num_samples=4, scale_rewards="batch", mask_truncated_completions=True),
        "rloo": add_rloo_advantages(num_samples=4, normalize_advantages=True),
    }[algorithm]
    whole = add(batch)
    for microbatches in (2, 4):
        parts = add(cut(flat(batch), microbatches))
        for a, b in zip(jax.tree.leaves(flat(parts)), jax.tree.leaves(flat(whole)), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
    return flat(whole)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "gmpo", "vespo"])
def test_neither_microbatches_nor_devices_nor_filling_rows_can_be_seen(algorithm):
    _, sampled, reference = policy_and_reference()
    # Not the policy that sampled: ratios are far from 1, and some are clipped.
    params = jax.tree.map(lambda a, b: a + 0.1 * b, sampled, reference)
    if algorithm == "grpo":
        objective = objective_of(grpo_objective, beta=BETA, epsilon=0.02)
    elif algorithm == "rloo":
        objective = objective_of(rloo_objective, epsilon=0.02)
    elif algorithm == "gmpo":
        objective = objective_of(grpo_objective, beta=BETA, loss_type="gmpo", epsilon=0.02)
    else:
        objective = objective_of(grpo_objective, beta=BETA, loss_type="vespo")
    batch = finished("rloo" if algorithm == "rloo" else "grpo")
    alone = step_gradient(objective, params, batch, 1)
    assert 0 < alone[0].get("clip_ratio/region_mean", 0.5) < 1
    spoilt = jax.tree.map(lambda leaf: leaf, batch)
    for name in ("behaviour_logps", "reference_logps", "advantages"):
        spoilt["completion"][name] = spoilt["completion"][name].at[28:].set(jnp.nan)
    assert_same_step(step_gradient(objective, params, spoilt, 2, data=4, fsdp=2), alone)
    assert np.isfinite(alone[0]["loss"])


def test_cispo_asks_for_its_cap():
    with pytest.raises(InputError, match="cispo"):
        grpo_objective(policy_and_reference()[0], max_new_tokens=1, loss_type="cispo")


@partial(jax.jit, static_argnames=("policy", "loss_type"))
def learned(policy, params, key, loss_type="dapo", steps=60):
    """The reward is how many tokens of the completion are 1."""
    roll = rollout(policy, num_samples=8, max_new_tokens=ROOM, stop_tokens=(STOP,))
    add = add_grpo_advantages(num_samples=8)
    objective = grpo_objective(policy, max_new_tokens=ROOM, loss_type=loss_type)
    optimizer = optax.adam(0.01)

    def step(carry, i):
        params, state = carry
        batch = roll(params, prompts_of(8), jax.random.fold_in(key, i))
        tokens = batch["completion"]["tokens"][..., 2:]
        batch = add({**batch, "reward": jnp.sum(tokens == 1, axis=-1).astype(jnp.float32)})
        batch = jax.tree.map(lambda leaf: leaf[0], batch)

        def loss(params):
            means = mean_of(objective(params, batch, None))
            return means["loss"], means

        grads, means = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), (means["reward"], means["ratio"])

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[1]


def test_from_samples_the_reward_rises():
    policy, params, _ = policy_and_reference(4.0)
    reward, ratio = learned(policy, params, jax.random.key(3))
    assert reward[:5].mean() < 1.0
    assert reward[-5:].mean() > 1.9
    np.testing.assert_allclose(ratio, 1, atol=1e-4)  # every rollout is the policy's own
