"""Every family against transformers: logits, scores, greedy completions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.policy import load_huggingface, sample, scores
from tests.policy.goldens import FAMILIES, GOLDENS, LLAMAS, all_logits, classifier_of, expected


@pytest.mark.parametrize("name", [*LLAMAS, *FAMILIES])
def test_logits_of_transformers(name):
    policy, params = load_huggingface(GOLDENS / name)
    tokens, lengths, want = expected(name)
    got = all_logits(policy, params, tokens, lengths)
    real = np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]
    # Caps make some logits small, so the tolerance is of their deviation where that is below 1.
    tolerance = 1e-4 * min(1.0, float(want[real].std()))
    np.testing.assert_allclose(np.asarray(got)[real], want[real], atol=tolerance, rtol=0)
    assert got.dtype == jnp.float32


def test_scores_of_transformers():
    policy, params = load_huggingface(GOLDENS / "classifier")
    tokens, lengths, want = expected("classifier")
    np.testing.assert_allclose(jax.jit(scores)(policy, params, tokens, lengths), want, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_every_family(tmp_path, name):
    policy, params = load_huggingface(classifier_of(name, tmp_path / name))
    assert policy.config.num_scores == 3
    tokens, lengths, _ = expected(name)
    want = np.load(GOLDENS / name / "expected.npz")["scores"]
    np.testing.assert_allclose(jax.jit(scores)(policy, params, tokens, lengths), want, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_completions_token_for_token(name):
    """Ours in one padded batch, theirs one by one; 40 tokens, several times the window."""
    stored = np.load(GOLDENS / name / "expected.npz")
    policy, params = load_huggingface(GOLDENS / name)
    assert max(policy.config.windows, default=0) < 10
    out = sample(
        policy,
        params,
        jnp.asarray(stored["prompts"], jnp.int32),
        jnp.asarray(stored["prompt_lengths"], jnp.int32),
        jax.random.key(0),
        max_new_tokens=40,
        stop_tokens=(),
        temperature=0,
    )
    for row, start in enumerate(stored["prompt_lengths"]):
        assert out.tokens[row, start : start + 40].tolist() == stored["generated"][row].tolist()
