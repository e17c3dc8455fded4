"""Best-of-n: the table of every pair judged once, and its Borda winner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.align import best_of_n, round_robin


def candidates(quality):
    """One-token completions whose token is their quality; leaves are [n, B, ...]."""
    n, b = quality.shape
    return {
        "tokens": jnp.stack([jnp.zeros((n, b), jnp.int32), jnp.asarray(quality, jnp.int32)], axis=-1),
        "prompt_lengths": jnp.ones((n, b), jnp.int32),
        "lengths": jnp.full((n, b), 2),
    }


def by_quality(scale, first, second):
    return jax.nn.sigmoid(scale * (first["tokens"][:, 1] - second["tokens"][:, 1]))


@pytest.mark.parametrize("n", [2, 5])
def test_the_table_holds_every_pair_in_both_orders(n):
    quality = np.random.default_rng(0).integers(0, 9, (n, 3))
    table = jax.jit(round_robin, static_argnums=0)(by_quality, jnp.float32(0.3), candidates(quality))
    assert table.shape == (n, n, 3)
    want = 1 / (1 + np.exp(-0.3 * (quality[:, None] - quality[None, :])))
    np.testing.assert_allclose(table, want, atol=1e-6)
    assert (table + jnp.swapaxes(table, 0, 1) == 1).all()
    np.testing.assert_array_equal(best_of_n(table), quality.argmax(axis=0))


def test_no_pair_is_judged_twice():
    judged = []

    def judge(_, first, second):
        jax.debug.callback(
            lambda a, b: judged.append((int(a), int(b))), first["tokens"][0, 1], second["tokens"][0, 1]
        )
        return jnp.full(first["lengths"].shape, 0.25)

    table = round_robin(judge, None, candidates(np.arange(4)[:, None]))
    jax.effects_barrier()
    assert sorted(judged) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    np.testing.assert_array_equal(table[:, :, 0], np.where(np.eye(4), 0.5, np.where(np.tri(4), 0.75, 0.25)))


def test_one_candidate_wins_without_a_match():
    table = round_robin(by_quality, jnp.float32(1.0), candidates(np.array([[3, 1]])))
    assert table.tolist() == [[[0.5, 0.5]]]
    assert best_of_n(table).tolist() == [0, 0]


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_the_winner_has_the_largest_mean_preference_over_the_others(seed):
    upper = np.triu(np.random.default_rng(seed).uniform(size=(5, 5)), k=1)
    table = upper + np.tril(1 - upper.T, k=-1) + np.eye(5) / 2
    borda = [np.mean([table[i, j] for j in range(5) if j != i]) for i in range(5)]
    assert best_of_n(jnp.asarray(table, jnp.float32)[:, :, None]).tolist() == [int(np.argmax(borda))]


def test_borda_prefers_broad_support_in_a_cycle():
    # a beats b narrowly, b beats c widely, c beats a widely: the Borda counts are .4, .6 and .5.
    table = jnp.array([[0.5, 0.6, 0.2], [0.4, 0.5, 0.8], [0.8, 0.2, 0.5]])
    assert best_of_n(table[:, :, None]).tolist() == [1]
