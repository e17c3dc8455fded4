"""Sums and weights: however a batch is cut, they add up to the same mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.types import Weighted, is_weighted, mean_of

VALUES = jnp.float32([[1.0, 2.0, 3.0, 6.0], [0.5, 9.0, 9.0, 9.0], [7.0, 7.0, 7.0, 7.0]])
MASK = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])

CONSTRUCTORS = {
    "of": lambda values, mask: Weighted.of(values, mask.astype(jnp.float32)),
    "tokens": Weighted.tokens,
    "sequences": Weighted.sequences,
    "constant": lambda values, mask: Weighted.constant(values, mask, 4),
}
EVERY = pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS.keys())


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("of", 12.5 / 5),
        ("tokens", 12.5 / 5),
        ("sequences", (3.0 + 0.5) / 2),  # the third sequence has no token and is absent
        ("constant", 12.5 / (2 * 4)),
    ],
)
def test_each_average_by_hand(name, mean):
    assert float(CONSTRUCTORS[name](VALUES, MASK).mean()) == pytest.approx(mean)


def test_without_weights_everything_counts_once():
    assert Weighted.of(jnp.float32([1, 2, 6])) == (9.0, 3.0)
    assert float(Weighted.of(jnp.float32(2.5)).mean()) == 2.5


def test_fractions_weigh():
    assert float(Weighted.of(jnp.float32([1, 4]), jnp.float32([1, 0.5])).mean()) == pytest.approx(2.0)


@EVERY
@given(cut=st.integers(0, 12), padding=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_any_cut_and_any_padding_give_the_same_mean(make, cut, padding, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(12, 5)).astype(np.float32)
    mask = (np.arange(5) < generator.integers(0, 6, size=(12, 1))).astype(np.int32)
    whole = make(jnp.asarray(values), jnp.asarray(mask))
    # Padding holds nan: a row or a token of weight 0 is absent, not multiplied by 0.
    wide = jnp.pad(values, ((0, padding), (0, padding)), constant_values=np.nan)
    wide_mask = jnp.pad(mask, ((0, padding), (0, padding)))
    parts = [make(wide[:cut], wide_mask[:cut]), make(wide[cut:], wide_mask[cut:])]
    summed = jax.tree.map(jnp.add, *parts)
    np.testing.assert_allclose(summed.mean(), whole.mean(), rtol=1e-5, atol=1e-6)


@EVERY
def test_nan_under_a_zero_does_not_reach_the_gradient(make):
    values = VALUES.at[1, 1:].set(jnp.nan).at[2].set(jnp.nan)
    gradient = jax.grad(lambda v: make(v, MASK).mean())(values)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(np.asarray(gradient)[np.asarray(MASK) == 0], 0.0)


@EVERY
def test_nothing_at_all_has_mean_and_gradient_zero(make):
    nothing = jnp.zeros_like(MASK)
    assert float(make(VALUES, nothing).mean()) == 0.0
    np.testing.assert_array_equal(jax.grad(lambda v: make(v, nothing).mean())(VALUES), 0.0)


@EVERY
def test_under_jit_vmap_and_a_mesh(make):
    values = jax.random.normal(jax.random.key(0), (16, 4))
    mask = (jax.random.uniform(jax.random.key(1), (16, 4)) < 0.7).astype(jnp.int32)
    alone = make(values, mask)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put((values, mask), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(jax.jit(make)(*placed), alone, rtol=1e-5)

    def over_devices(values, mask):
        return jax.tree.map(lambda x: jax.lax.psum(x, "data"), make(values, mask))

    split = PartitionSpec("data")
    each = jax.shard_map(over_devices, mesh=mesh, in_specs=split, out_specs=PartitionSpec())
    np.testing.assert_allclose(each(values, mask), alone, rtol=1e-5)
    mapped = jax.vmap(make)(values.reshape(4, 4, 4), mask.reshape(4, 4, 4))
    np.testing.assert_allclose(jax.tree.map(jnp.sum, mapped), alone, rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    summed = Weighted.of(jnp.ones(1000, jnp.bfloat16))
    assert summed.total.dtype == jnp.float32
    assert summed == (1000.0, 1000.0)


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"weights have shape \(2,\), values \(2, 1\)"):
        Weighted.of(jnp.zeros((2, 1)), jnp.ones(2))


def test_a_tree_of_sums_becomes_a_tree_of_means():
    tree = {"loss": Weighted.of(jnp.float32([1, 3])), "more": [Weighted.of(jnp.float32([5]))]}
    assert jax.tree.map(float, mean_of(tree)) == {"loss": 2.0, "more": [5.0]}
    assert is_weighted(tree["loss"])
    assert not is_weighted((1.0, 2.0))
