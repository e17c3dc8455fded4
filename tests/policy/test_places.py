"""What sees what: packed sequences and branches of one prompt read as each would be by itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.policy import Places, decoder, hidden_states, placed_hidden_states
from prefjax.policy.decoder import visible
from tests.policy.goldens import tiny

GEMMA = {
    "windows": (3, 0), "attention_softcap": 2.0, "norm_offset": True, "post_norms": True, "scale_embeddings": True,
    "qk_norm": True, "local_rope_theta": 20.0, "activation": "gelu_tanh",
}  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 2), st.integers(0, 2)), min_size=1, max_size=8),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_of_visibility(tokens, window):
    """`visible` against the sentence in the docstring of `Places`, token by token."""
    positions, groups, branches = (jnp.asarray([column], jnp.int32) for column in zip(*tokens, strict=True))
    at = Places(positions, groups, branches)
    seen = np.asarray(visible(at, at, jnp.asarray(window)))[0]
    for q, (position_q, group_q, branch_q) in enumerate(tokens):
        for k, (position_k, group_k, branch_k) in enumerate(tokens):
            want = group_k == group_q and branch_k in (0, branch_q) and position_k <= position_q
            want = want and (window == 0 or position_q - position_k < window)
            assert seen[q, k] == want
    # What is not given does not matter.
    alone = np.asarray(visible(Places(positions), Places(positions)))[0]
    np.testing.assert_array_equal(alone, np.greater_equal.outer(*[np.asarray(positions)[0]] * 2))


PROMPT, FIRST, SECOND, OTHER = [1, 2, 3], [4, 5], [6, 7, 8], [9, 10, 0]
ROW = [*PROMPT, *FIRST, *SECOND, *OTHER, 5]  # the last is padding
PACKED = Places(
    positions=jnp.array([[0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 0]]),
    groups=jnp.array([[0] * 8 + [1] * 3 + [-1]]),
    branches=jnp.array([[0, 0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 0]]),
)


@partial(jax.jit, static_argnames="pieces")
def of_places(policy, params, tokens, at, pieces=0):
    return placed_hidden_states(policy, params, tokens, at)


@pytest.mark.parametrize(
    ("changes", "pieces"),
    [({}, 0), ({"windows": (3, 2)}, 0), (GEMMA, 0), (GEMMA, 5)],
    ids=["llama", "windows", "gemma", "gemma in pieces"],
)
def test_a_row_of_several_sequences_is_each_of_them(changes, pieces, monkeypatch):
    if pieces:
        monkeypatch.setattr(decoder, "QUERIES", pieces)  # 12 queries in pieces of at most 5
    policy, params = tiny(**changes)
    sequences = [PROMPT + FIRST, PROMPT + SECOND, OTHER]
    alone = jnp.array([row + [0] * (6 - len(row)) for row in sequences])
    want = jax.jit(hidden_states)(policy, params, alone, jnp.array([len(row) for row in sequences]))
    got = of_places(policy, params, jnp.array([ROW]), PACKED, pieces)[0]
    places = [[0, 1, 2, 3, 4], [0, 1, 2, 5, 6, 7], [8, 9, 10]]
    for states, where in zip(want, places, strict=True):
        np.testing.assert_allclose(got[jnp.array(where)], states[: len(where)], atol=1e-5)
    assert not got[11].any()  # padding
    # Not because everything is the same: without branches the second completion would see the first.
    blind = of_places(policy, params, jnp.array([ROW]), PACKED._replace(branches=None))[0]
    assert np.abs(blind[5:8] - got[5:8]).max() > 1e-2


def test_a_gradient_goes_where_something_was_seen():
    policy, params = tiny(num_layers=1)

    def known(table, place):
        replaced = {**params, "model": {**params["model"], "embed_tokens": {"weight": table}}}
        return placed_hidden_states(policy, replaced, jnp.array([ROW]), PACKED)[0, place].sum()

    gradient = jax.jit(jax.grad(known))
    for place, seen in ((4, {1, 2, 3, 4, 5}), (7, {1, 2, 3, 6, 7, 8}), (10, {9, 10, 0})):
        by_token = gradient(params["model"]["embed_tokens"]["weight"], place)
        assert set(np.flatnonzero(np.abs(by_token).sum(axis=1)).tolist()) == seen


def test_one_row_of_places_for_all_rows_or_one_each():
    policy, params = tiny(num_layers=1)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (3, 5)), jnp.int32)
    one = Places(jnp.arange(5)[None, :])
    each = Places(jnp.broadcast_to(jnp.arange(5), (3, 5)), jnp.zeros((3, 5), jnp.int32))
    np.testing.assert_allclose(
        of_places(policy, params, tokens, one), of_places(policy, params, tokens, each), atol=1e-6
    )
