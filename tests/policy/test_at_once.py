"""Sums whose gradient is taken in the forward pass, against the same sums without."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import PAIRED_LOSSES, add_mean_length, paired_objective, pairs_at_once
from prefjax.policy import sum_at_once
from prefjax.types import Weighted, mean_of
from tests.policy.goldens import tiny

B, N, D, V = 4, 3, 5, 7
PAIRS, COMPLETION, WIDTH, VOCAB = 4, 3, 6, 11


def example():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, weights = jax.random.normal(keys[0], (B, N, D)), jax.random.normal(keys[1], (V, D))
    rest = {
        "targets": jax.random.randint(keys[2], (B, N), 0, V),
        "scale": jnp.arange(1.0, B + 1),
        "none": None,
    }
    return hidden, weights, rest


def of_some(hidden, weights, rest):
    z = jax.nn.log_softmax(jnp.einsum("bnd,vd->bnv", hidden, weights))
    own = jnp.take_along_axis(z, rest["targets"][..., None], axis=-1)[..., 0].sum(axis=1)
    return jnp.sum(rest["scale"] * own**2), {"own": own}


@pytest.mark.parametrize("size", [1, 2, B])
def test_value_what_is_seen_and_gradients(size):
    hidden, weights, rest = example()

    def plain(hidden, weights):
        total, seen = of_some(hidden, weights, rest)
        return jnp.tanh(0.1 * total), seen  # a slope that is not 1

    def pieces(hidden, weights):
        total, seen = sum_at_once(of_some, size, hidden, weights, rest)
        return jnp.tanh(0.1 * total), seen

    both = [jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True)) for f in (pieces, plain)]
    got, want = (f(hidden * 0.1, weights) for f in both)
    for leaf, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    # And without a gradient, where nothing is saved.
    (value, seen), _ = got
    alone, alone_seen = jax.jit(pieces)(hidden * 0.1, weights)
    np.testing.assert_allclose(alone, value, rtol=1e-6)
    np.testing.assert_allclose(alone_seen["own"], seen["own"], rtol=1e-6)


def test_no_gradient_through_what_is_seen_or_through_the_rest():
    hidden, weights, rest = example()

    def through(hidden, scale):
        total, seen = sum_at_once(of_some, 2, hidden, weights, {**rest, "scale": scale})
        return seen["own"].sum() + 0 * total

    by_hidden, by_scale = jax.grad(through, argnums=(0, 1))(hidden, rest["scale"])
    assert not by_hidden.any()
    assert not by_scale.any()


def test_never_more_than_a_few_logits():
    """One example's at a time need less room than all, and all together no more than without."""
    b, n, d, v = 8, 128, 64, 4096
    shapes = (
        jax.ShapeDtypeStruct((b, n, d), jnp.float32),
        jax.ShapeDtypeStruct((v, d), jnp.float32),
        {
            "targets": jax.ShapeDtypeStruct((b, n), jnp.int32),
            "scale": jax.ShapeDtypeStruct((b,), jnp.float32),
        },
    )

    def temporary(total):
        compiled = jax.jit(jax.grad(lambda *args: total(*args)[0], argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    naive = temporary(of_some)
    assert naive > 4 * b * n * v  # all logits, at least
    assert temporary(partial(sum_at_once, of_some, b)) <= naive
    assert temporary(partial(sum_at_once, of_some, 1)) < naive / 4


def pairs(seed=0):
    """Four ragged pairs with a reference; the last has weight 0, and a reference that is nan."""
    rng = np.random.default_rng(seed)

    def side():
        starts = rng.integers(1, 4, PAIRS)
        return {
            "tokens": jnp.asarray(rng.integers(0, VOCAB, (PAIRS, WIDTH)), jnp.int32),
            "prompt_lengths": jnp.asarray(starts, jnp.int32),
            "lengths": jnp.asarray(starts + rng.integers(1, COMPLETION + 1, PAIRS), jnp.int32),
            "reference_logp": jnp.asarray(rng.normal(-6, 2, PAIRS), jnp.float32).at[-1].set(jnp.nan),
        }

    weight = jnp.ones(PAIRS).at[-1].set(0.0)
    batch = {"index": jnp.arange(PAIRS), "weight": weight, "chosen": side(), "rejected": side()}
    return add_mean_length(batch)


@partial(jax.jit, static_argnames=("at_once", "name"))
def means_and_gradient(policy, params, batch, *, at_once, name="sigmoid"):
    objective = paired_objective(
        policy, PAIRED_LOSSES[name], beta=0.3, max_completion=COMPLETION, at_once=at_once
    )

    def loss(params):
        means = mean_of(objective(params, batch, jax.random.key(0)))
        return means["loss"], means

    return jax.grad(loss, has_aux=True)(params)


def assert_same(got, want, tolerance=1e-5):
    """Means to 1e-5 of the larger of 1 and themselves, gradients to 1e-5 of the largest entry."""
    (gradient, means), (wanted_gradient, wanted) = got, want
    assert means.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.isfinite(value)
        np.testing.assert_allclose(means[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_gradient))
    assert largest > 1e-3
    for leaf, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("at_once", [1, 2, PAIRS])
def test_pairs_at_once_are_pairs_in_pieces_of_the_vocabulary(at_once):
    """With caps on logits and a head of its own; a row of weight 0 is absent, even at nan."""
    policy, params = tiny(num_layers=1, logit_softcap=3.0, tie_word_embeddings=False)
    want = means_and_gradient(policy, params, pairs(), at_once=None)
    assert_same(means_and_gradient(policy, params, pairs(), at_once=at_once), want)


def test_a_loss_with_a_likelihood_and_a_tied_head():
    policy, params = tiny(num_layers=1)
    want = means_and_gradient(policy, params, pairs(), at_once=None, name="rpo")
    assert_same(means_and_gradient(policy, params, pairs(), at_once=2, name="rpo"), want)


def test_pairs_at_once_in_bfloat16():
    policy, params = tiny(num_layers=1, dtype="bfloat16")
    got = means_and_gradient(policy, params, pairs(), at_once=2)
    assert_same(got, means_and_gradient(policy, params, pairs(), at_once=None), tolerance=1e-2)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(got))


def test_how_many_at_once():
    assert pairs_at_once(8, max_completion=256, vocab_size=32000) == 1  # 2^24 logits a pair
    assert pairs_at_once(8, max_completion=64, vocab_size=32000) == 4
    assert pairs_at_once(6, max_completion=8, vocab_size=100) == 6
    assert pairs_at_once(7, max_completion=64, vocab_size=32000) == 1  # 4 does not divide 7
    assert pairs_at_once(8, max_completion=1024, vocab_size=128256) is None


def test_a_total_of_weights_is_the_weight_of_the_loss():
    policy, params = tiny(num_layers=1)
    objective = paired_objective(
        policy, PAIRED_LOSSES["sigmoid"], beta=0.3, max_completion=COMPLETION, at_once=1
    )
    assert isinstance(summed := objective(params, pairs(), jax.random.key(0))["loss"], Weighted)
    assert float(summed.weight) == PAIRS - 1
