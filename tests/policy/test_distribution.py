"""What may be drawn, and how often."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.policy import draw, draw_next, next_token_logits


@jax.jit
def softmaxed(logits, how):
    return jax.nn.softmax(next_token_logits(logits[None], **how))[0]


def probabilities(logits, *, temperature=1.0, top_k=0, top_p=1.0):
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    return np.asarray(softmaxed(jnp.asarray(logits, jnp.float32), how))


def by_sorting(logits, temperature, top_k, top_p):
    """The definition, in float64 and with a sort."""
    z = np.asarray(logits, np.float64) / temperature
    best = np.argsort(-z, kind="stable")
    p = np.exp(z - z.max())
    if top_k:
        p[best[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        before = np.cumsum(p[best]) - p[best]  # kept while what is likelier does not suffice
        p[best[before >= top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (5, 0.7), (1, 1.0), (0, 1e-6)])
def test_filters_by_their_definition(temperature, top_k, top_p):
    logits = 3 * np.random.default_rng(0).standard_normal(41).astype(np.float32)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    np.testing.assert_allclose(probabilities(logits, **how), by_sorting(logits, **how), atol=1e-6)


def test_a_sweep_compiles_once():
    logits = jnp.arange(6.0)[None]
    adjusted = jax.jit(chex.assert_max_traces(next_token_logits, n=1))
    for temperature, top_k, top_p in [(1.0, 0, 1.0), (0.0, 3, 1.0), (0.5, 100, 0.5)]:
        adjusted(logits, temperature=temperature, top_k=top_k, top_p=top_p)


def test_temperature_zero_is_the_first_of_the_likeliest():
    np.testing.assert_array_equal(probabilities([1.0, 3.0, 3.0, -1.0], temperature=0.0), [0, 1, 0, 0])
    uniforms, logits = jnp.array([[0.9, 0.9]]), jnp.array([[1.0, 3.0, 3.0, -1.0]])
    token, logp = draw_next(uniforms, logits, temperature=0.0)
    assert (int(token[0]), float(logp[0])) == (1, 0.0)


def test_ties_and_zero_logits_and_negative_ones():
    np.testing.assert_allclose(probabilities([0.0, -1.0, -1.0, -2.0], top_k=2) > 0, [1, 1, 1, 0])
    np.testing.assert_allclose(probabilities([-5.0, -7.0, -6.0], top_k=2) > 0, [1, 0, 1])
    np.testing.assert_allclose(probabilities([-jnp.inf, -7.0, -6.0], top_k=3) > 0, [0, 1, 1])


@pytest.mark.parametrize("vocab_size", [2, 7, 1000])
def test_draws_are_exact(vocab_size):
    """Enumerated: uniforms on a fine grid hit each token as often as its probability says."""
    logits = jax.random.normal(jax.random.key(0), (vocab_size,)).at[1].set(-jnp.inf)
    side = 128
    grid = (jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side)), axis=-1) + 0.5).reshape(-1, 2) / side
    tokens, logps = jax.jit(draw)(grid, jnp.broadcast_to(logits, (side * side, vocab_size)))
    frequency = np.bincount(tokens, minlength=vocab_size) / side**2
    exact = np.asarray(jax.nn.softmax(logits))
    # A token fills whole cells of its block, and a block whole columns, but for one at each edge.
    np.testing.assert_allclose(frequency, exact, atol=2 / side)
    assert frequency[1] == 0
    np.testing.assert_allclose(np.exp(logps), exact[tokens], atol=1e-5)


def test_the_edges_of_the_uniform_never_draw_what_has_no_probability():
    logits = jnp.array([[-jnp.inf, 0.0, -jnp.inf, 1.0, -jnp.inf]])
    for u in (0.0, float(np.nextafter(np.float32(1), np.float32(0))), 1.0):
        token, logp = draw(jnp.full((1, 2), u, jnp.float32), logits)
        assert int(token[0]) in (1, 3)
        assert np.isfinite(logp[0])
