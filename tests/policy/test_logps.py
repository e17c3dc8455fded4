"""Log-probabilities in pieces against log_softmax in one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from prefjax.policy import completion_logps, logps_and_entropies_from_hidden, logps_from_hidden
from prefjax.policy.logps import NARROWEST, TILE, chunk_size
from tests.policy.goldens import all_logits, tiny


def naive(hidden, weights, targets):
    z = hidden.astype(jnp.float32) @ weights.astype(jnp.float32).T
    return jnp.take_along_axis(jax.nn.log_softmax(z, axis=-1), targets[:, None], axis=-1)[:, 0]


def example(n=13, d=8, v=37, scale=1.0, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = (scale * jax.random.normal(keys[0], (n, d))).astype(dtype)
    weights = jax.random.normal(keys[1], (v, d))
    targets = jax.random.randint(keys[2], (n,), 0, v)
    return hidden, weights, targets, jax.random.normal(keys[3], (n,))


def value_and_gradients(logps, hidden, weights, targets, cotangent):
    def both(h, w):
        value, pull = jax.vjp(lambda h, w: logps(h, w, targets), h, w)
        return value, pull(cotangent)

    return jax.jit(both)(hidden, weights)


@pytest.mark.parametrize("chunk", [None, 1, 7, 37, 100])
def test_value_and_gradient_whatever_the_pieces(chunk):
    got = value_and_gradients(lambda *args: logps_from_hidden(*args, chunk=chunk), *example())
    chex.assert_trees_all_close(got, value_and_gradients(naive, *example()), atol=1e-5)


def test_logits_beyond_the_exponential_of_float32():
    args = example(scale=100.0)
    got = value_and_gradients(lambda *args: logps_from_hidden(*args, chunk=10), *args)
    # Logits of some 300 are known to 3e-5, and what comes of them is multiplied by hidden states of 100.
    chex.assert_trees_all_close(got, value_and_gradients(naive, *args), rtol=1e-4, atol=5e-3)


def test_bfloat16_in_float32_out():
    hidden, weights, targets, cotangent = example(dtype=jnp.bfloat16)
    logps, grads = value_and_gradients(
        lambda *args: logps_from_hidden(*args, chunk=9), hidden, weights, targets, cotangent
    )
    assert [a.dtype for a in (logps, *grads)] == [jnp.float32, jnp.bfloat16, jnp.float32]
    rounded = weights.astype(jnp.bfloat16).astype(jnp.float32)
    exact, exact_grads = value_and_gradients(naive, hidden.astype(jnp.float32), rounded, targets, cotangent)
    np.testing.assert_allclose(logps, exact, atol=1e-5)
    for got, want in zip(grads, exact_grads, strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.05)


def test_under_vmap():
    hidden, weights, targets, _ = example(n=12)
    stacked = jax.vmap(lambda h, t: logps_from_hidden(h, weights, t, chunk=8))(
        hidden.reshape(3, 4, -1), targets.reshape(3, 4)
    )
    np.testing.assert_allclose(stacked.reshape(-1), naive(hidden, weights, targets), atol=1e-5)


def test_tokens_split_over_eight_devices_stay_split():
    hidden, weights, targets, _ = example(n=16, v=64)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def loss(h, w, y):
        return logps_from_hidden(h, w, y, chunk=16).sum()

    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1)),
        in_shardings=(rows, whole, rows),
        out_shardings=(None, (rows, whole)),
    )
    chex.assert_trees_all_close(
        step(hidden, weights, targets),
        jax.value_and_grad(loss, argnums=(0, 1))(hidden, weights, targets),
        atol=1e-5,
    )
    assert "all-gather" not in step.lower(hidden, weights, targets).compile().as_text()


def test_memory_is_a_tenth_of_the_naive():
    n, v, d = 4096, 32000, 256
    shapes = (
        jax.ShapeDtypeStruct((n, d), jnp.float32),
        jax.ShapeDtypeStruct((v, d), jnp.float32),
        jax.ShapeDtypeStruct((n,), jnp.int32),
    )

    def temporary(logps):
        def step(h, w, y):
            return jax.value_and_grad(lambda h, w: logps(h, w, y).sum(), argnums=(0, 1))(h, w)

        return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporary(logps_from_hidden) <= 0.1 * temporary(naive)


@pytest.mark.parametrize(("rows", "vocab"), [(1, 50), (4096, 32000), (1024, 128256), (10**6, 128256), (0, 7)])
def test_pieces_are_even_and_bounded(rows, vocab):
    chunk = chunk_size(rows, vocab)
    assert 1 <= chunk <= vocab
    assert chunk <= max(TILE // max(rows, 1), NARROWEST)
    pieces = -(-vocab // chunk)
    assert pieces * chunk - vocab < pieces  # the last is hardly smaller


def test_completion_logps_by_hand():
    policy, params = tiny()
    tokens = jax.random.randint(jax.random.key(2), (3, 8), 0, 11)
    prompt_lengths, lengths = jnp.array([3, 1, 5]), jnp.array([8, 3, 5])
    logps, mask = jax.jit(completion_logps, static_argnames="max_completion")(
        policy, params, tokens, prompt_lengths, lengths, max_completion=5
    )
    np.testing.assert_array_equal(mask.sum(axis=1), [5, 2, 0])
    everywhere = jax.nn.log_softmax(all_logits(policy, params, tokens, lengths))
    for row, (start, end) in enumerate(zip(prompt_lengths.tolist(), lengths.tolist(), strict=True)):
        for i in range(5):
            at = start + i
            want = everywhere[row, at - 1, tokens[row, at]] if at < end else 0.0
            assert logps[row, i] == pytest.approx(float(want), abs=1e-5)


def test_what_is_masked_has_no_gradient():
    policy, params = tiny()
    tokens = jax.random.randint(jax.random.key(2), (2, 8), 0, 11)

    def total(params, tokens, width):
        logps, _ = completion_logps(
            policy, params, tokens, jnp.array([3, 2]), jnp.array([5, 4]), max_completion=width
        )
        return logps.sum()

    gradient = jax.jit(jax.grad(total), static_argnums=2)
    short = gradient(params, tokens[:, :5], 2)
    longer = gradient(params, tokens, 6)
    chex.assert_trees_all_close(longer, short, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_entropies_temperature_and_softcap_are_those_of_the_whole_distribution(softcap):
    keys = jax.random.split(jax.random.key(5), 3)
    hidden, weights = jax.random.normal(keys[0], (7, 8)), jax.random.normal(keys[1], (50, 8))
    targets = jax.random.randint(keys[2], (7,), 0, 50)

    def by_hand(hidden):
        z = hidden @ weights.T
        z = z if softcap is None else softcap * jnp.tanh(z / softcap)
        return jax.nn.log_softmax(z / 0.7)

    def ours(hidden):
        return logps_and_entropies_from_hidden(
            hidden, weights, targets, temperature=0.7, softcap=softcap, chunk=16
        )

    whole = by_hand(hidden)
    logps, entropies = ours(hidden)
    chex.assert_trees_all_close(logps, whole[jnp.arange(7), targets], rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(entropies, -jnp.sum(jnp.exp(whole) * whole, axis=-1), rtol=1e-5, atol=1e-5)
    slope = jax.grad(lambda h: ours(h)[0].sum())(hidden)
    expected = jax.grad(lambda h: by_hand(h)[jnp.arange(7), targets].sum())(hidden)
    chex.assert_trees_all_close(slope, expected, rtol=1e-4, atol=1e-5)
    assert not jnp.any(jax.grad(lambda h: ours(h)[1].sum())(hidden))
