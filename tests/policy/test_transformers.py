"""Live round trips with transformers: what we write loads there, and does the same. Run with `-m oracle`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.policy import load_huggingface, sample, save_huggingface
from tests.policy.goldens import GOLDENS, all_logits, expected

pytestmark = pytest.mark.oracle

PROMPTS = [[5, 9, 33, 100], [17, 4], [64, 65, 66]]


def theirs(directory, auto):
    import torch
    import transformers

    model_class = getattr(transformers, auto)
    return torch, model_class.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", ["tied", "untied", "classifier"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20000])
def test_what_we_write_loads_there_with_the_same_logits(tmp_path, name, max_shard_bytes):
    policy, params = load_huggingface(GOLDENS / name)
    save_huggingface(
        tmp_path / "out", policy, params, source_dir=GOLDENS / name, max_shard_bytes=max_shard_bytes
    )
    head = "AutoModelForSequenceClassification" if name == "classifier" else "AutoModelForCausalLM"
    torch, model = theirs(tmp_path / "out", head)
    tokens, lengths, want = expected(name)
    mask = (np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]).astype(np.int64)
    with torch.no_grad():
        got = model(
            input_ids=torch.tensor(np.asarray(tokens, np.int64)), attention_mask=torch.tensor(mask)
        ).logits
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_there_and_back_again(tmp_path, name):
    """Ours to theirs to ours: written by save_pretrained, the parameters are the same to the bit."""
    policy, params = load_huggingface(GOLDENS / name)
    save_huggingface(tmp_path / "ours", policy, params)
    _, model = theirs(tmp_path / "ours", "AutoModelForCausalLM")
    model.save_pretrained(tmp_path / "theirs")
    again, same = load_huggingface(tmp_path / "theirs")
    assert again == policy
    tokens, lengths, _ = expected(name)
    np.testing.assert_array_equal(
        all_logits(again, same, tokens, lengths), all_logits(policy, params, tokens, lengths)
    )


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_greedy_generation_token_for_token(tmp_path, name):
    policy, params = load_huggingface(GOLDENS / name)
    save_huggingface(tmp_path / "out", policy, params)
    torch, model = theirs(tmp_path / "out", "AutoModelForCausalLM")
    assert model.generation_config.eos_token_id == list(policy.config.eos_token_ids)
    prompts = jnp.array([prompt + [0] * (4 - len(prompt)) for prompt in PROMPTS])
    lengths = jnp.array([len(prompt) for prompt in PROMPTS])
    out = sample(
        policy,
        params,
        prompts,
        lengths,
        jax.random.key(0),
        max_new_tokens=40,
        stop_tokens=policy.config.eos_token_ids,
        temperature=0,
    )
    for row, prompt in enumerate(PROMPTS):
        want = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0].tolist()
        assert out.tokens[row, : out.lengths[row]].tolist() == want
