"""Rows of ragged prompts and completions: put side by side, joined and summed, against plain Python lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.align import joined, stacked, summed_logps
from prefjax.policy import completion_logps
from tests.policy.goldens import next_logits, tiny

VOCAB, WIDTH, COMPLETION = 11, 9, 4


def padded(texts, *, width=WIDTH, fill=0):
    """Rows out of (prompt, completion) lists; what lies behind them is `fill`."""
    tokens = np.full((len(texts), width), fill, np.int32)
    for row, (prompt, completion) in zip(tokens, texts, strict=True):
        row[: len(prompt) + len(completion)] = prompt + completion
    prompts, whole = (
        np.array(n, np.int32) for n in zip(*[(len(x), len(x + y)) for x, y in texts], strict=True)
    )
    return {"tokens": jnp.array(tokens), "prompt_lengths": jnp.array(prompts), "lengths": jnp.array(whole)}


def listed(rows):
    """And back again, with nothing of the padding."""
    return [
        (tokens[:prompt].tolist(), tokens[prompt:length].tolist())
        for tokens, prompt, length in zip(*map(np.asarray, map(rows.get, ROWS)), strict=True)
    ]


ROWS = ("tokens", "prompt_lengths", "lengths")
token = st.integers(0, VOCAB - 1)
text = st.tuples(st.lists(token, min_size=1, max_size=5), st.lists(token, max_size=COMPLETION))
three_pairs = st.lists(st.tuples(text, text), min_size=3, max_size=3)


@given(three_pairs, token)
@settings(max_examples=40, deadline=None)
def test_stacked_rows_alternate_and_lose_nothing(pairs, fill):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    extra = {"reference_logp": jnp.zeros(3)}  # what else a batch carries stays behind
    rows = stacked(padded(first, fill=fill) | extra, padded(second, fill=fill))
    assert set(rows) == set(ROWS)
    assert listed(rows) == [one for pair in pairs for one in pair]


@given(three_pairs, token)
@settings(max_examples=40, deadline=None)
def test_joined_is_the_first_row_and_then_the_second_completion(pairs, fill):
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    rows = joined(
        padded(first, fill=fill), padded(second, width=WIDTH + 2, fill=fill), max_completion=COMPLETION
    )
    assert rows["tokens"].shape == (3, WIDTH + COMPLETION)
    assert listed(rows) == [(x, y + other) for (x, y), (_, other) in pairs]


TEXTS = [([1, 2], [3, 4, 5]), ([6], [7]), ([8, 9, 10, 1, 2], [3, 4, 5, 6]), ([5, 5, 5], [])]


def brute_force(policy, params, prompt, completion):
    """log π(y|x), each prefix read on its own, in float64 from the logits on."""
    total = 0.0
    for i, target in enumerate(completion):
        z = next_logits(policy, params, prompt + completion[:i]).astype(np.float64)
        total += z[target] - np.log(np.exp(z).sum())
    return total


@pytest.mark.parametrize("fill", [0, 7])
def test_summed_logps_are_those_of_every_prefix_read_on_its_own(fill):
    policy, params = tiny(num_layers=1)
    summed = jax.jit(summed_logps, static_argnames="max_completion")
    got = summed(policy, params, padded(TEXTS, fill=fill), max_completion=COMPLETION)
    want = [brute_force(policy, params, x, y) for x, y in TEXTS]
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert min(want) < -2  # far from a case where nothing could go wrong
    assert got[3] == 0  # an empty completion is certain
    longer = summed(policy, params, padded(TEXTS, width=WIDTH + 5, fill=fill), max_completion=COMPLETION + 3)
    np.testing.assert_allclose(longer, got, atol=1e-5)


def test_the_mask_has_one_for_each_completion_token_and_none_for_the_prompt():
    policy, params = tiny(num_layers=1)
    rows = padded(TEXTS, fill=7)
    logps, mask = jax.jit(completion_logps, static_argnames="max_completion")(
        policy, params, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=COMPLETION + 1
    )
    assert mask.sum(axis=1).tolist() == [len(y) for _, y in TEXTS]
    assert mask.tolist() == [[1.0] * len(y) + [0.0] * (COMPLETION + 1 - len(y)) for _, y in TEXTS]
    assert (np.asarray(logps)[np.asarray(mask) == 0] == 0).all()
    assert (np.asarray(logps)[np.asarray(mask) == 1] < 0).all()


def test_tokens_beyond_max_completion_are_left_out_of_the_sum():
    policy, params = tiny(num_layers=1)
    got = summed_logps(policy, params, padded(TEXTS), max_completion=2)
    want = [brute_force(policy, params, x, y[:2]) for x, y in TEXTS]
    np.testing.assert_allclose(got, want, atol=2e-5)
