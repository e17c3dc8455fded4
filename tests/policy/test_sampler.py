"""The sampler against the policy that it claims to draw from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.checks import InputError
from prefjax.policy import Mixture, completion_logps, sample
from prefjax.policy.sampler import _sample
from tests.policy.goldens import next_logits, tiny

PROMPTS = jnp.array([[4, 5, 6, 7], [8, 9, 0, 0], [3, 0, 0, 0]])
PROMPT_LENGTHS = jnp.array([4, 2, 1])
KEY = jax.random.key(7)


# The same for most tests, so that they share one compiled program.
SAME = {"max_new_tokens": 6, "stop_tokens": (2,)}


@pytest.mark.parametrize("tied", [True, False])
def test_logps_are_those_of_the_policy(tied):
    policy, params = tiny(tie_word_embeddings=tied)
    out = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME)
    logps, mask = completion_logps(
        policy, params, out.tokens, out.prompt_lengths, out.lengths, max_completion=6
    )
    np.testing.assert_array_equal(out.mask, mask)
    np.testing.assert_allclose(out.logps, logps, atol=1e-5)


def test_greedy_is_the_argmax_of_the_whole_prefix():
    policy, params = tiny()
    out = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME, temperature=0.0)
    for row, length in enumerate(PROMPT_LENGTHS.tolist()):
        prefix = PROMPTS[row, :length].tolist()
        while len(prefix) < length + 6 and 2 not in prefix[length:]:
            prefix.append(int(np.argmax(next_logits(policy, params, prefix))))
        assert out.tokens[row, : out.lengths[row]].tolist() == prefix
        assert out.stopped[row] == (prefix[-1] == 2)
    assert not out.logps.any()


@pytest.mark.parametrize("how", [{}, {"temperature": 0.6, "top_k": 3}, {"coef": 0.4}])
def test_sequences_come_as_often_as_they_should(how):
    """All sequences of two tokens, against 20000 drawn ones."""
    policy, params = tiny(vocab_size=4)
    _, other = tiny(vocab_size=4, seed=1)
    coef = how.get("coef")
    filters = {name: how[name] for name in how if name != "coef"}

    def distribution(prefix):
        z = next_logits(policy, params, prefix)
        if coef is not None:
            z = (1 - coef) * z + coef * next_logits(policy, other, prefix)
        z = np.asarray(z, np.float64) / how.get("temperature", 1.0)
        if how.get("top_k"):
            z[np.argsort(-z)[how["top_k"] :]] = -np.inf
        return np.exp(z) / np.exp(z).sum()

    first = distribution([3])
    exact = np.concatenate([first[token] * distribution([3, token]) for token in range(4)])
    draws = 20000
    mixture = None if coef is None else Mixture(other, coef)
    prompts, lengths = jnp.full((draws, 1), 3), jnp.ones(draws, jnp.int32)
    out = sample(
        policy, params, prompts, lengths, KEY, max_new_tokens=2, stop_tokens=(), mixture=mixture, **filters
    )
    pairs = np.asarray(out.tokens[:, 1] * 4 + out.tokens[:, 2])
    frequency = np.bincount(pairs, minlength=16) / draws
    assert np.abs(frequency - exact).sum() / 2 < 0.02
    assert set(np.flatnonzero(frequency)) <= set(np.flatnonzero(exact))
    np.testing.assert_allclose(np.exp(out.logps.sum(axis=1)), exact[pairs], atol=1e-4)


@pytest.mark.parametrize("coef", [0.0, 0.3, 1.0])
def test_mixture_by_its_formula(coef):
    policy, params = tiny()
    _, other = tiny(seed=1)
    out = sample(
        policy,
        params,
        PROMPTS,
        PROMPT_LENGTHS,
        KEY,
        **SAME,
        temperature=0.7,
        mixture=Mixture(other, coef),
    )
    for row, (start, end) in enumerate(zip(out.prompt_lengths.tolist(), out.lengths.tolist(), strict=True)):
        for at in range(start, end):
            prefix = out.tokens[row, :at].tolist()
            z = (1 - coef) * next_logits(policy, params, prefix) + coef * next_logits(policy, other, prefix)
            want = (z - z.max())[out.tokens[row, at]] / 0.7 - np.log(np.exp((z - z.max()) / 0.7).sum())
            assert out.logps[row, at - start] == pytest.approx(float(want), abs=1e-5)


def test_a_mixture_with_oneself_is_oneself():
    policy, params = tiny()
    alone = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME)
    mixed = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME, mixture=Mixture(params, 0.5))
    np.testing.assert_array_equal(mixed.tokens, alone.tokens)


def test_a_row_ends_with_its_first_stop_token():
    policy, params = tiny(vocab_size=4)
    prompts, lengths = jnp.full((64, 2), 3), jnp.full(64, 2)
    out = sample(policy, params, prompts, lengths, KEY, max_new_tokens=6, stop_tokens=(1, 2), temperature=3.0)
    for row in range(64):
        completion = out.tokens[row, 2 : int(out.lengths[row])].tolist()
        stops = [token in (1, 2) for token in completion]
        assert not any(stops[:-1])
        assert stops[-1] == bool(out.stopped[row])
        assert out.stopped[row] or len(completion) == 6
        assert not out.tokens[row, int(out.lengths[row]) :].any()
        np.testing.assert_array_equal(out.mask[row], np.arange(6) < len(completion))
        np.testing.assert_array_equal(out.logps[row] != 0, out.mask[row] > 0)
    assert int(out.stopped.sum()) > 0
    assert len(set(out.lengths.tolist())) > 2


def test_a_row_does_not_know_of_the_batch_around_it():
    policy, params = tiny()
    together = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME)
    wide = jnp.pad(PROMPTS, ((0, 2), (0, 3)), constant_values=9)
    wide_lengths = jnp.pad(PROMPT_LENGTHS, (0, 2), constant_values=1)
    wider = sample(policy, params, wide, wide_lengths, KEY, **SAME)
    own = jax.random.fold_in(KEY, 1)[None]
    alone = sample(policy, params, PROMPTS[1:2, :2], PROMPT_LENGTHS[1:2], own, **SAME)
    for other, at, row in ((alone, 0, 1), *((wider, row, row) for row in range(3))):
        end = int(together.lengths[row])
        assert other.lengths[at] == end
        np.testing.assert_array_equal(other.tokens[at, :end], together.tokens[row, :end])
        np.testing.assert_allclose(other.logps[at], together.logps[row], atol=1e-5)


def test_one_compilation_for_every_temperature_and_filter():
    policy, params = tiny(vocab_size=13)
    before = _sample._cache_size()
    for how in ({}, {"temperature": 0}, {"temperature": 0.5, "top_k": 3}, {"top_p": 0.9}):
        sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, max_new_tokens=2, stop_tokens=(2,), **how)
    assert _sample._cache_size() == before + 1


def test_prompts_split_over_eight_devices_draw_the_same():
    policy, params = tiny()
    prompts = jax.random.randint(jax.random.key(3), (8, 4), 3, 11)
    lengths = jnp.arange(8) % 4 + 1
    alone = sample(policy, params, prompts, lengths, KEY, max_new_tokens=5, stop_tokens=(2,))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    together = sample(
        policy,
        jax.device_put(params, whole),
        *jax.device_put((prompts, lengths), rows),
        jax.device_put(KEY, whole),
        max_new_tokens=5,
        stop_tokens=(2,),
    )
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    np.testing.assert_allclose(together.logps, alone.logps, atol=1e-5)


def test_bfloat16_draws_what_bfloat16_scores():
    policy, params = tiny(dtype="bfloat16")
    out = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, max_new_tokens=4, stop_tokens=())
    logps, _ = completion_logps(policy, params, out.tokens, out.prompt_lengths, out.lengths, max_completion=4)
    np.testing.assert_allclose(out.logps, logps, atol=0.1)


def test_top_p_keeps_to_its_support():
    policy, params = tiny()
    out = sample(policy, params, PROMPTS, PROMPT_LENGTHS, KEY, **SAME, top_p=0.5)
    for row, i in itertools.product(range(3), range(6)):
        if not out.mask[row, i]:
            continue
        at = int(out.prompt_lengths[row]) + i
        p = np.asarray(jax.nn.softmax(next_logits(policy, params, out.tokens[row, :at].tolist())), np.float64)
        best = np.argsort(-p)
        kept = best[: int(np.searchsorted(np.cumsum(p[best]), 0.5)) + 1]
        token = int(out.tokens[row, at])
        assert token in kept
        assert out.logps[row, i] == pytest.approx(np.log(p[token] / p[kept].sum()), abs=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -2}, "top_k is -2"),
    ],
)
def test_numbers_that_mean_nothing_are_errors(how, message):
    with pytest.raises(InputError, match=message):
        sample(*tiny(), PROMPTS, PROMPT_LENGTHS, KEY, **{"max_new_tokens": 2, "stop_tokens": (), **how})
