"""The decoder against transformers, and against itself: padding, caches, dtypes, meshes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.checks import InputError
from prefjax.policy import (
    DecoderConfig,
    abstract,
    hidden_states,
    init,
    load_huggingface,
    output_weights,
    scores,
)
from tests.policy.goldens import GOLDENS, all_logits, expected, tiny

states = jax.jit(hidden_states)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_logits_of_transformers(name):
    policy, params = load_huggingface(GOLDENS / name)
    tokens, lengths, want = expected(name)
    got = all_logits(policy, params, tokens, lengths)
    real = np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]
    np.testing.assert_allclose(np.asarray(got)[real], want[real], atol=1e-4)
    assert got.dtype == jnp.float32


def test_scores_of_transformers():
    policy, params = load_huggingface(GOLDENS / "classifier")
    tokens, lengths, want = expected("classifier")
    np.testing.assert_allclose(jax.jit(scores)(policy, params, tokens, lengths), want, atol=1e-4)


def test_what_padding_holds_and_how_much_there_is_does_not_matter():
    policy, params = tiny()
    tokens = jax.random.randint(jax.random.key(1), (3, 7), 0, 11)
    lengths = jnp.array([7, 4, 1])
    short = states(policy, params, tokens, lengths)
    other = jnp.where(jnp.arange(7)[None, :] < lengths[:, None], tokens, 5)
    longer = states(policy, params, jnp.pad(other, ((0, 0), (0, 6)), constant_values=9), lengths)
    np.testing.assert_allclose(longer[:, :7], short, atol=1e-5)
    assert not longer[:, 7:].any()


def test_the_future_is_not_seen():
    policy, params = tiny()
    tokens = jax.random.randint(jax.random.key(1), (1, 6), 0, 11)
    # The gradient of what is known at position 2 reaches embeddings of positions 0 to 2 only.
    table = jnp.eye(11, 16)
    grad = jax.grad(
        lambda e: states(
            policy,
            {**params, "model": {**params["model"], "embed_tokens": {"weight": e}}},
            tokens,
            jnp.array([6]),
        )[0, 2].sum()
    )(table)
    seen = set(np.flatnonzero(np.abs(grad).sum(axis=1)))
    assert seen <= set(np.asarray(tokens)[0, :3].tolist())


def test_init_makes_what_abstract_says_under_jit_in_place():
    config = DecoderConfig(vocab_size=16, hidden_size=16, intermediate_size=16, tie_word_embeddings=False)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    policy, shapes = abstract(config)
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    places = jax.tree.map(lambda leaf: split if leaf.shape[0] % 8 == 0 else whole, shapes)
    made, params = jax.jit(lambda key: init(config, key), out_shardings=(None, places))(jax.random.key(3))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    assert made == policy
    assert hash(made) == hash(policy)
    assert params["lm_head"]["weight"].sharding == split
    chex.assert_trees_all_close(params, init(config, jax.random.key(3))[1], atol=1e-6)
    deviation = float(params["lm_head"]["weight"].std())
    assert deviation == pytest.approx(0.02, rel=0.2)
    assert (params["model"]["norm"]["weight"] == 1).all()


def test_matrices_are_as_large_as_initializer_range_says():
    shape = {"vocab_size": 64, "hidden_size": 64, "num_layers": 1, "tie_word_embeddings": False}
    _, params = init(DecoderConfig(**shape, initializer_range=0.5), jax.random.key(0))
    _, usual = init(DecoderConfig(**shape), jax.random.key(0))
    for matrix, same in zip(jax.tree.leaves(params), jax.tree.leaves(usual), strict=True):
        if matrix.ndim > 1:
            assert float(matrix.std()) == pytest.approx(0.5, rel=0.1)
        np.testing.assert_allclose(matrix, same * (25.0 if matrix.ndim > 1 else 1.0), rtol=1e-5)


def test_a_batch_split_over_eight_devices_gives_the_same_numbers():
    policy, params = tiny()
    tokens = jax.random.randint(jax.random.key(1), (8, 6), 0, 11)
    lengths = jnp.arange(8) % 6 + 1

    def loss(params, tokens, lengths):
        return (hidden_states(policy, params, tokens, lengths) ** 2).sum(axis=-1).mean()

    alone = jax.jit(jax.value_and_grad(loss))(params, tokens, lengths)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    together = jax.jit(jax.value_and_grad(loss), in_shardings=(whole, rows, rows))(params, tokens, lengths)
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-5)


def test_remat_changes_memory_and_nothing_else():
    tokens, lengths = jnp.arange(10).reshape(2, 5), jnp.array([5, 3])
    policy, params = tiny()
    recomputing, _ = tiny(remat=True)

    @jax.jit
    def gradient(policy, params):
        return jax.grad(lambda p: (hidden_states(policy, p, tokens, lengths) ** 3).sum())(params)

    chex.assert_trees_all_close(gradient(recomputing, params), gradient(policy, params), rtol=1e-4, atol=1e-6)


def test_bfloat16_computes_on_float32_parameters():
    policy, params = tiny(scale=1.0)
    half, _ = tiny(scale=1.0, dtype="bfloat16")
    tokens, lengths = jnp.arange(10).reshape(2, 5), jnp.array([5, 3])
    hidden = states(half, params, tokens, lengths)
    assert hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(hidden.astype(jnp.float32), states(policy, params, tokens, lengths), atol=0.1)

    def total(params):
        return hidden_states(half, params, tokens, lengths).astype(jnp.float32).sum()

    grads = jax.eval_shape(jax.grad(total), params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))


def test_a_head_that_is_not_there_is_an_error():
    tokens, lengths = jnp.ones((1, 2), jnp.int32), jnp.array([2])
    with pytest.raises(InputError, match="no score head"):
        scores(*tiny(), tokens, lengths)
    with pytest.raises(InputError, match="head of 2 scores"):
        output_weights(*tiny(num_scores=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads is 4, num_kv_heads 3"),
        ({"num_heads": 3, "num_kv_heads": 3}, "no multiple of num_heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dtype": "float8"}, "dtype is 'float8'"),
        ({"initializer_range": 0.0}, "initializer_range is 0.0"),
        ({"num_scores": -1}, "num_scores is -1"),
    ],
)
def test_an_impossible_shape_is_an_error(changes, message):
    with pytest.raises(InputError, match=message):
        DecoderConfig(vocab_size=8, **changes)
