"""Policy gradients: written numbers under each average, clips, padding, and the exact gradient by enumeration."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import (
    cispo_loss,
    gmpo_loss,
    gspo_loss,
    gspo_token_loss,
    kl_cov_loss,
    kl_k3,
    luspo_loss,
    masked_importance_weights,
    ppo_clip_loss,
    reinforce_loss,
    sapo_loss,
    truncated_importance_weights,
    vespo_loss,
)
from prefjax.returns import (
    discounted_returns,
    dr_grpo_advantages,
    grpo_advantages,
    max_at_k_advantages,
    remax_advantages,
    rloo_advantages,
)
from prefjax.rewards import kl_shaped_rewards
from prefjax.types import Weighted
from tests.losses.test_nash import Language

# Two completions of three and two tokens, one more column of padding, A = (1, -.5).
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
OLD = np.array([[-1.0, -0.5, -2.0, 0.0], [-0.7, -1.2, 0.0, 0.0]])
NEW = np.array([[-0.8, -0.9, -1.6, 0.0], [-1.0, -0.9, 0.0, 0.0]])
REFERENCE = np.array([[-1.1, -0.6, -1.8, 0.0], [-0.9, -1.0, 0.0, 0.0]])
ADVANTAGE = np.array([1.0, -0.5])
ADVANTAGES = np.repeat(ADVANTAGE[:, None], 4, axis=1)


def average(values, name, length=4):
    if name == "constant":
        return Weighted.constant(values, jnp.asarray(MASK), length).mean()
    if name == "sum":
        return jnp.sum(jnp.where(MASK == 1, values, 0.0)) / 2
    return getattr(Weighted, name)(values, jnp.asarray(MASK)).mean()


def ppo(new, **settings):
    return ppo_clip_loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGES), **settings)


def cispo(new, **settings):
    return cispo_loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGES), **settings)


def gspo_token(new, **settings):
    return gspo_token_loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGES), jnp.asarray(MASK), **settings)


def sapo(new, **settings):
    return sapo_loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGES), **settings)


def vespo(new, **settings):
    return vespo_loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGE), jnp.asarray(MASK), **settings)


def of_sequences(loss):
    """Spread over tokens, so that the average over sequences is that of sequences."""

    def spread_out(new, **settings):
        each = loss(new, jnp.asarray(OLD), jnp.asarray(ADVANTAGE), jnp.asarray(MASK), **settings)
        return jnp.broadcast_to(each[:, None], new.shape)

    return spread_out


gspo, gmpo, luspo = of_sequences(gspo_loss), of_sequences(gmpo_loss), of_sequences(luspo_loss)


WIDE = {"epsilon_low": 0.2, "epsilon_high": 0.2}
KNOWN = {
    "ppo, sequences": (ppo, "sequences", {}, -0.2429876567, [0, -0.1117200077, 0, 0, 0.1687323509]),
    "ppo, tokens": (ppo, "tokens", {}, -0.3990781284, [0, -0.1340640092, 0, 0, 0.1349858808]),
    "ppo, constant": (ppo, "constant", {}, -0.2494238303, [0, -0.0837900058, 0, 0, 0.0843661755]),
    "ppo, sum": (ppo, "sum", {}, -0.9976953211, [0, -0.3351600231, 0, 0, 0.3374647018]),
    "clip higher": (
        ppo,
        "tokens",
        {"epsilon_high": 0.28},
        -0.4193586801,
        [-0.2442805517, -0.1340640092, 0, 0, 0.1349858808],
    ),
    "cispo, TRL's 5": (
        cispo,
        "tokens",
        {"max_ratio": 5.0},
        0.5978968381,
        [-0.2442805517, -0.1340640092, -0.2983649395, 0.0740818221, 0.1349858808],
    ),
    "cispo, TRL's 1.28": (
        cispo,
        "tokens",
        {"max_ratio": 1.28},
        0.5364002275,
        [-0.2442805517, -0.1340640092, -0.256, 0.0740818221, 0.128],
    ),
    "cispo, verl's .2 .28": (
        cispo,
        "tokens",
        {"max_ratio": 1.28, "min_ratio": 0.8},
        0.5538244413,
        [-0.2442805517, -0.16, -0.256, 0.08, 0.128],
    ),
    "gspo": (gspo, "sequences", WIDE, -0.2844695529, [-0.1781565176] * 3 + [0.125] * 2),
    "gspo token": (gspo_token, "sequences", WIDE, -0.2844695529, [-0.1781565176] * 3 + [0.125] * 2),
    "gmpo": (gmpo, "sequences", {}, -0.2844695529, [-0.1781565176] * 3 + [0.125] * 2),
    "gmpo narrow": (
        gmpo,
        "sequences",
        {"epsilon_low": 0.25, "epsilon_high": 0.25},
        -0.2520743851,
        [-0.1694677217, -0.1694677217, 0, 0, 0.1281643900],
    ),
    # |y| times GSPO's: its value and its gradient by hand.
    "luspo": (luspo, "sequences", WIDE, -1.1034086586, [-0.1781565176 * 3] * 3 + [0.125 * 2] * 2),
    "sapo": (
        sapo,
        "sequences",
        {},
        -0.5754152491,
        [-0.2010926935, -0.1087384831, -0.2341876623, 0.0909086748, 0.1631654828],
    ),
    # φ = (.76781361, 1): the gradient of a token is -φA over five tokens.
    "vespo": (vespo, "tokens", {}, 0.3167569806, [-0.76781361 / 5] * 3 + [0.1] * 2),
    "gspo narrow": (gspo, "sequences", {}, -0.2502, [0, 0, 0, 0.125, 0.125]),
    "gspo token narrow": (gspo_token, "sequences", {}, -0.2502, [0, 0, 0, 0.125, 0.125]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_written_values_and_gradients(name):
    loss, by, settings, value, gradient = KNOWN[name]
    with jax.enable_x64(True):
        found = jax.value_and_grad(lambda new: average(loss(new, **settings), by))(jnp.asarray(NEW))
    # Averages are summed in float32, so to its rounding.
    assert float(found[0]) == pytest.approx(value, abs=2e-7)
    np.testing.assert_allclose(np.asarray(found[1])[MASK == 1], gradient, atol=3e-8)
    np.testing.assert_array_equal(np.asarray(found[1])[MASK == 0], 0.0)


def test_grpo_with_its_kl():
    with jax.enable_x64(True):
        new = jnp.asarray(NEW)
        loss = average(ppo(new) + 0.04 * kl_k3(new, jnp.asarray(REFERENCE)), "sequences")
    assert float(loss) == pytest.approx(-0.2421581882, abs=3e-8)


def test_rloo_of_trl_clips_the_ratio_of_whole_sequences():
    with jax.enable_x64(True):

        def mean(new):
            logp, old = ((x * MASK).sum(axis=-1) for x in (new, jnp.asarray(OLD)))
            return ppo_clip_loss(logp, old, jnp.asarray(ADVANTAGE)).mean()

        value, gradient = jax.value_and_grad(mean)(jnp.asarray(NEW))
    assert float(value) == pytest.approx(-0.35, abs=1e-12)
    np.testing.assert_allclose(np.asarray(gradient)[MASK == 1], [0, 0, 0, 0.25, 0.25], atol=1e-12)


@pytest.mark.parametrize(
    ("advantage", "ratio", "settings", "loss", "slope"),
    [
        (1.0, 0.7, {}, -0.7, -0.7),
        (1.0, 1.0, {}, -1.0, -1.0),
        (1.0, 1.3, {}, -1.2, 0.0),
        (-1.0, 0.7, {}, 0.8, 0.0),
        (-1.0, 1.0, {}, 1.0, 1.0),
        (-1.0, 1.3, {}, 1.3, 1.3),
        (-1.0, 5.0, {}, 5.0, 5.0),
        (-1.0, 5.0, {"max_ratio": 3.0}, 3.0, 0.0),
        (-1.0, 2.0, {"max_ratio": 3.0}, 2.0, 2.0),
        (-1.0, 0.5, {"max_ratio": 3.0}, 0.8, 0.0),
        (-1.0, 5.0, {"max_ratio": 4.0}, 4.0, 0.0),
        (1.0, 5.0, {"max_ratio": 4.0}, -1.2, 0.0),
    ],
)
def test_the_clip_by_sign_of_the_advantage(advantage, ratio, settings, loss, slope):
    behaviour, advantage = jnp.float32(-1.0), jnp.float32(advantage)
    found = jax.value_and_grad(lambda new: ppo_clip_loss(new, behaviour, advantage, **settings))(
        behaviour + jnp.log(jnp.float32(ratio))
    )
    np.testing.assert_allclose(found, (loss, slope), rtol=2e-6, atol=1e-7)


def test_every_surrogate_starts_as_reinforce():
    with jax.enable_x64(True):
        old, expected = jnp.asarray(OLD), -ADVANTAGES * MASK
        everywhere = {
            "reinforce": lambda new: reinforce_loss(new, jnp.asarray(ADVANTAGES)),
            "ppo": ppo,
            "cispo": lambda new: cispo(new, max_ratio=5.0),
            "gspo token": gspo_token,
            "sapo": sapo,
            "sapo, other temperatures": lambda new: sapo(
                new, temperature_positive=0.3, temperature_negative=4.0
            ),
            "vespo": vespo,
        }
        for loss in everywhere.values():
            gradient = jax.grad(lambda new, loss=loss: jnp.sum(loss(new) * MASK))(old)
            np.testing.assert_allclose(gradient, expected, atol=1e-12)
        for loss, scale in (
            (gspo, MASK.sum(axis=1, keepdims=True)),
            (gmpo, MASK.sum(axis=1, keepdims=True)),
            (luspo, 1),
        ):
            by_sequence = jax.grad(lambda new, loss=loss: loss(new)[:, 0].sum())(old)
            np.testing.assert_allclose(by_sequence, expected / scale, atol=1e-12)


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("by", ["sequences", "tokens", "constant"])
def test_what_is_in_the_padding_changes_nothing(by, garbage):
    for loss, _, settings, *_ in KNOWN.values():
        if loss in (ppo, cispo, sapo):

            def mean(new, loss=loss, settings=settings):
                return average(loss(new, **settings), by)

            clean = jax.value_and_grad(mean)(jnp.float32(NEW))
            dirty = jax.value_and_grad(mean)(jnp.where(MASK == 1, jnp.float32(NEW), garbage))
            np.testing.assert_array_equal(clean[0], dirty[0])
            np.testing.assert_array_equal(clean[1], dirty[1])


@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4])
def test_what_is_in_the_padding_of_sequences_changes_nothing(garbage):
    for loss in (gspo, gspo_token, gmpo, luspo, vespo):
        settings = {} if loss is vespo else WIDE

        def mean(new, loss=loss, settings=settings):
            return average(loss(new, **settings), "sequences")

        clean = jax.value_and_grad(mean)(jnp.float32(NEW))
        dirty = jax.value_and_grad(mean)(jnp.where(MASK == 1, jnp.float32(NEW), garbage))
        np.testing.assert_array_equal(clean[0], dirty[0])
        np.testing.assert_array_equal(clean[1], dirty[1])


def test_a_sequence_without_tokens_has_ratio_one():
    nothing = gspo_loss(jnp.full((1, 3), 7.0), jnp.zeros((1, 3)), jnp.float32([2.0]), jnp.zeros((1, 3)))
    np.testing.assert_array_equal(nothing, [-2.0])


# --- Enumeration: a language of three tokens and horizon two, 9 sequences, or 7 where one token ends them.


@pytest.fixture(params=[False, True], ids=["one length", "many"])
def world(request):
    """The language, logits of policy and reference, a reward of each sequence."""
    with jax.enable_x64(True):
        language = Language(request.param, horizon=2)
        random = np.random.default_rng(3)
        logits, reference = (jnp.asarray(random.normal(size=(language.rows, 3))) for _ in range(2))
        yield language, logits, reference, jnp.asarray(random.normal(size=len(language.sequences)))


def mean_gradient(language, logits, size, loss):
    """-∇ of the mean, over all groups of `size` samples, of loss(their sequences, logps [size, T]) summed, / size."""
    groups = np.array(list(itertools.product(range(len(language.sequences)), repeat=size)))
    chances = jnp.exp(language.logp(logits)[groups].sum(axis=-1))

    def mean(theta):
        each = jax.vmap(lambda group: loss(group, language.logps(theta)[group]).sum())(jnp.asarray(groups))
        return -chances @ each / size

    return jax.jit(jax.grad(mean))(logits)


def exact_gradient(language, logits, rewards):
    return jax.grad(lambda theta: jnp.exp(language.logp(theta)) @ rewards)(logits)


def spread(advantages, logps):
    return jnp.broadcast_to(advantages[:, None], logps.shape)


def at_one(loss, **settings):
    """A loss of whole sequences, spread over tokens so that they sum to it."""

    def spread_out(logps, advantages):
        mask = (logps != 0).astype(logps.dtype)  # the language gives 0 where there is no token
        return (
            loss(logps, jax.lax.stop_gradient(logps), advantages[:, 0], mask, **settings)[:, None]
            / logps.shape[-1]
        )

    return spread_out


SURROGATES = {
    "reinforce": lambda logps, advantages: reinforce_loss(logps, advantages),
    "ppo": lambda logps, advantages: ppo_clip_loss(logps, jax.lax.stop_gradient(logps), advantages),
    "cispo": lambda logps, advantages: cispo_loss(
        logps, jax.lax.stop_gradient(logps), advantages, max_ratio=5.0
    ),
    "sapo": lambda logps, advantages: sapo_loss(logps, jax.lax.stop_gradient(logps), advantages),
    "vespo": lambda logps, advantages: vespo_loss(
        logps, jax.lax.stop_gradient(logps), advantages[:, 0], logps != 0
    ),
    "kl_cov": lambda logps, advantages: kl_cov_loss(
        logps, jax.lax.stop_gradient(logps), advantages, jnp.ones_like(logps)
    ),
}
# Of sequences: |y| times the mean over tokens is their sum.
SEQUENCES = {"luspo": at_one(luspo_loss)}
MEANS = {"gspo": at_one(gspo_loss), "gmpo": at_one(gmpo_loss)}


@pytest.mark.parametrize("name", [*SEQUENCES, *MEANS])
def test_losses_of_sequences_at_ratio_one(world, name):
    """LUSPO's mean gradient is exact; GSPO's and GMPO's is its 1/|y| part, exact only where all lengths agree."""
    language, logits, _, rewards = world
    surrogate = {**SEQUENCES, **MEANS}[name]

    def loss(group, logps):
        return jnp.broadcast_to(surrogate(logps, spread(rloo_advantages(rewards[group]), logps)), logps.shape)

    found, exact = mean_gradient(language, logits, 2, loss), exact_gradient(language, logits, rewards)
    if name in SEQUENCES:
        np.testing.assert_allclose(found, exact, atol=1e-12)
    elif len(language.sequences) == 9:
        np.testing.assert_allclose(found, exact / 2, atol=1e-12)
    else:
        scale = jnp.vdot(found, exact) / jnp.vdot(exact, exact)
        assert np.abs(found - scale * exact).max() > 1e-2


def test_the_best_of_a_group_left_out_follows_the_mean_of_the_maximum(world):
    language, logits, _, rewards = world
    mask = jnp.asarray(language.mask)

    def loss(group, logps):
        return mask[group] * reinforce_loss(logps, spread(max_at_k_advantages(rewards[group]), logps))

    def maximum(theta):
        chances = jnp.exp(language.logp(theta))
        return chances @ jnp.maximum(rewards[:, None], rewards[None]) @ chances

    exact = jax.grad(maximum)(logits)
    np.testing.assert_allclose(2 * mean_gradient(language, logits, 2, loss), exact, atol=1e-12)


# --- Samples of somebody else.


def off_policy_gradient(language, logits, sampler, loss):
    """-∇ of the mean over sequences of the sampler of loss(logps of π, logps of μ), summed over tokens."""
    chances = jnp.exp(language.logp(sampler))

    def mean(theta):
        return -chances @ loss(language.logps(theta), language.logps(sampler)).sum(axis=-1)

    return jax.jit(jax.grad(mean))(logits)


def weighed(weights, of_sequences):
    def loss(rewards, mask, new, sampled):
        held = jax.lax.stop_gradient(new)
        pair = (held.sum(axis=-1), sampled.sum(axis=-1)) if of_sequences else (held, sampled)
        factor = spread(weights(*pair), new) if of_sequences else weights(*pair)
        return mask * factor * ppo_clip_loss(new, held, spread(rewards, new))

    return loss


def ratios_of_sequences(rewards, mask, new, sampled):
    loss = ppo_clip_loss(
        new.sum(axis=-1), sampled.sum(axis=-1), rewards, epsilon_low=jnp.inf, epsilon_high=jnp.inf
    )
    return loss[:, None] * mask / mask.sum(axis=-1, keepdims=True)


def untempered(rewards, mask, new, sampled):
    ones = {"k_positive": 1.0, "k_negative": 1.0, "lambda_positive": 0.0, "lambda_negative": 0.0}
    return mask * vespo_loss(new, sampled, rewards, mask, **ones)


WHOLE = {"max_weight": jnp.inf}
OFF_POLICY = {
    "truncated, of sequences, at no height": (
        weighed(partial(truncated_importance_weights, **WHOLE), True),
        True,
    ),
    "masked, of sequences, at no height": (weighed(partial(masked_importance_weights, **WHOLE), True), True),
    "ratios of sequences without a clip": (ratios_of_sequences, True),
    "vespo, λ = 0 and k = 1": (untempered, True),
    "truncated": (weighed(partial(truncated_importance_weights, max_weight=1.2), True), False),
    "masked": (weighed(partial(masked_importance_weights, max_weight=1.2), True), False),
    "of tokens": (weighed(partial(truncated_importance_weights, **WHOLE), False), False),
    "not at all": (weighed(lambda new, sampled: jnp.ones_like(new), False), False),
}


@pytest.mark.parametrize("name", OFF_POLICY)
def test_which_corrections_are_exact_for_samples_of_another(world, name):
    language, logits, sampler, rewards = world
    loss, exactly = OFF_POLICY[name]
    mask = jnp.asarray(language.mask)
    found = off_policy_gradient(language, logits, sampler, lambda new, old: loss(rewards, mask, new, old))
    exact = exact_gradient(language, logits, rewards)
    if exactly:
        np.testing.assert_allclose(found, exact, atol=1e-12)
    else:
        assert np.abs(found - exact).max() > 1e-2


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("advantages", "factor"),
    # Leaving a sample out of its baseline is unbiased; not leaving it out shortens the gradient by (G - 1)/G.
    [
        (rloo_advantages, 1.0),
        (dr_grpo_advantages, 0.5),
        (lambda r: remax_advantages(r, jnp.asarray(0.3)), 1.0),
    ],
    ids=["rloo", "dr_grpo", "remax"],
)
def test_the_mean_gradient_over_groups_is_the_exact_one(world, surrogate, advantages, factor):
    language, logits, _, rewards = world

    def loss(group, logps):
        mask = jnp.asarray(language.mask)[group]
        return mask * SURROGATES[surrogate](logps, spread(advantages(rewards[group]), logps))

    exact = exact_gradient(language, logits, rewards)
    assert np.abs(exact).max() > 1e-2
    np.testing.assert_allclose(mean_gradient(language, logits, 2, loss), factor * exact, atol=1e-12)


def test_grpo_follows_the_exact_gradient_of_right_or_wrong_in_groups_of_two(world):
    # With rewards of 0 and 1 a group of two is scaled by 0 or by 1/√2: the gradient times 1/√2. With others it is
    # biased, since prompts and groups whose rewards differ less count as much.
    language, logits, _, rewards = world

    def loss(rewards):
        def of_group(group, logps):
            mask = jnp.asarray(language.mask)[group]
            advantages = spread(grpo_advantages(rewards[group], epsilon=0.0), logps)
            return mask * ppo_clip_loss(logps, jax.lax.stop_gradient(logps), advantages)

        return of_group

    right = (rewards > 0).astype(jnp.float64)
    np.testing.assert_allclose(
        mean_gradient(language, logits, 2, loss(right)),
        exact_gradient(language, logits, right) / np.sqrt(2),
        atol=1e-12,
    )
    biased, exact = (
        mean_gradient(language, logits, 2, loss(rewards)),
        exact_gradient(language, logits, rewards),
    )
    cosine = jnp.vdot(biased, exact) / jnp.linalg.norm(biased) / jnp.linalg.norm(exact)
    assert 0.5 < float(cosine) < 0.9999


def test_an_average_over_the_tokens_of_each_sequence_is_not_exact_where_lengths_differ():
    with jax.enable_x64(True):
        language = Language(True, horizon=2)
        random = np.random.default_rng(3)
        logits = jnp.asarray(random.normal(size=(language.rows, 3)))
        rewards = jnp.asarray(random.normal(size=len(language.sequences)))

        def loss(group, logps):
            mask = jnp.asarray(language.mask)[group]
            each = ppo_clip_loss(
                logps, jax.lax.stop_gradient(logps), spread(rloo_advantages(rewards[group]), logps)
            )
            return 2 * Weighted.sequences(each, mask).mean()[None]

        error = mean_gradient(language, logits, 2, loss) - exact_gradient(language, logits, rewards)
    assert np.abs(error).max() > 1e-2


def test_kl_in_the_reward_follows_the_divergence_of_whole_sequences(world):
    language, logits, reference, rewards = world
    beta, mask = 0.3, jnp.asarray(language.mask)

    def loss(group, logps):
        shaped = kl_shaped_rewards(
            rewards[group], logps, language.logps(reference)[group], mask[group], beta=beta
        )
        to_go = discounted_returns(shaped, jnp.ones_like(shaped), jnp.zeros(shaped.shape[0]))
        return mask[group] * reinforce_loss(logps, to_go)

    def objective(theta):
        logp = language.logp(theta)
        return jnp.exp(logp) @ (rewards - beta * (logp - language.logp(reference)))

    exact = jax.grad(objective)(logits)
    np.testing.assert_allclose(mean_gradient(language, logits, 1, loss), exact, atol=1e-12)


def test_kl_in_the_loss_misses_what_a_token_leads_to(world):
    language, logits, reference, _ = world
    mask = jnp.asarray(language.mask)

    def k3(group, logps):
        return -mask[group] * kl_k3(logps, language.logps(reference)[group])

    def sequence_kl(theta):
        logp = language.logp(theta)
        return jnp.exp(logp) @ (logp - language.logp(reference))

    error = mean_gradient(language, logits, 1, k3) - jax.grad(sequence_kl)(logits)
    assert np.abs(error).max() > 1e-2
