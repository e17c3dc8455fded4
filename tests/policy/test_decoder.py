"""The decoder against itself: padding, dtypes, meshes, memory. Against transformers: test_families."""

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
    decoder,
    hidden_states,
    init,
    output_weights,
    scores,
)
from tests.policy.goldens import tiny

states = jax.jit(hidden_states)


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
    for (path, leaf), same in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(usual), strict=True
    ):
        is_norm = "norm" in jax.tree_util.keystr(path)
        if not is_norm:
            assert float(leaf.std()) == pytest.approx(0.5, rel=0.1)
        np.testing.assert_allclose(leaf, same * (1.0 if is_norm else 25.0), rtol=1e-5)


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


def test_what_is_behind_the_window_is_not_seen():
    policy, params = tiny(num_layers=1, family="mistral", windows=(3,))
    tokens = jnp.array([[0, 1, 2, 3, 4, 5]])

    def known(table):
        replaced = {**params, "model": {**params["model"], "embed_tokens": {"weight": table}}}
        return states(policy, replaced, tokens, jnp.array([6]))[0, 5].sum()

    grad = jax.grad(known)(params["model"]["embed_tokens"]["weight"])
    assert np.flatnonzero(np.abs(grad).sum(axis=1)).tolist() == [3, 4, 5]


def test_long_rows_are_attended_to_in_pieces(monkeypatch):
    policy, params = tiny(num_layers=1, windows=(3,), attention_softcap=2.0)
    tokens = jax.random.randint(jax.random.key(1), (2, 11), 0, 11)
    lengths = jnp.array([11, 6])

    def both(params):
        hidden = hidden_states(policy, params, tokens, lengths)
        return (hidden**3).sum(), hidden

    whole = jax.jit(jax.grad(both, has_aux=True))(params)
    monkeypatch.setattr(decoder, "QUERIES", 4)  # 11 queries: pieces of 4, the last one not full
    pieces = jax.jit(jax.grad(lambda params: both(params), has_aux=True))(params)
    chex.assert_trees_all_close(pieces, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"remat": "block"}, {"remat": "dots"}, {"remat": "block", "scan_layers": False}]
)
def test_remat_and_scan_change_memory_and_nothing_else(how):
    tokens, lengths = jnp.arange(10).reshape(2, 5), jnp.array([5, 3])
    policy, params = tiny()
    other, _ = tiny(**how)

    @jax.jit
    def gradient(policy, params):
        return jax.grad(lambda p: (hidden_states(policy, p, tokens, lengths) ** 3).sum())(params)

    chex.assert_trees_all_close(gradient(other, params), gradient(policy, params), rtol=1e-4, atol=1e-5)


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
        ({"windows": (3,)}, "windows is .3,."),
        ({"windows": (3, -1)}, "windows is .3, -1."),
        ({"logit_softcap": 0.0}, "logit_softcap is 0.0"),
    ],
)
def test_an_impossible_shape_is_an_error(changes, message):
    with pytest.raises(InputError, match=message):
        DecoderConfig(vocab_size=8, **changes)
