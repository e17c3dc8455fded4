"""Live round trips with transformers: what we write loads there, and does the same. Run with `-m oracle`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.policy import load_huggingface, sample, save_huggingface
from prefjax.policy.config_json import config_from_huggingface
from prefjax.policy.config_json_write import config_to_huggingface
from tests.policy.goldens import FAMILIES, GOLDENS, LLAMAS, all_logits, classifier_of, expected

pytestmark = pytest.mark.oracle

PROMPTS = [[5, 9, 33, 100], [17, 4], [64, 65, 66]]


def theirs(directory, auto):
    import torch
    import transformers

    model_class = getattr(transformers, auto)
    return torch, model_class.from_pretrained(directory, dtype=torch.float32).eval()


def their_logits(torch, model, tokens, lengths):
    mask = (np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]).astype(np.int64)
    ids = torch.tensor(np.asarray(tokens, np.int64))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.tensor(mask)).logits.numpy(), mask > 0


@pytest.mark.parametrize("name", [*LLAMAS, *FAMILIES])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20000])
def test_what_we_write_loads_there_with_the_same_logits(tmp_path, name, max_shard_bytes):
    policy, params = load_huggingface(GOLDENS / name)
    save_huggingface(
        tmp_path / "out", policy, params, source_dir=GOLDENS / name, max_shard_bytes=max_shard_bytes
    )
    torch, model = theirs(tmp_path / "out", "AutoModelForCausalLM")
    tokens, lengths, want = expected(name)
    got, real = their_logits(torch, model, tokens, lengths)
    np.testing.assert_allclose(got[real], want[real], atol=1e-5)
    ours = np.asarray(all_logits(policy, params, tokens, lengths))
    np.testing.assert_allclose(got[real], ours[real], atol=1e-4 * min(1.0, float(want[real].std())), rtol=0)


@pytest.mark.parametrize("name", ["classifier", *FAMILIES])
def test_classifiers_load_there_with_the_same_scores(tmp_path, name):
    source = GOLDENS / name if name == "classifier" else classifier_of(name, tmp_path / "source")
    policy, params = load_huggingface(source)
    save_huggingface(tmp_path / "out", policy, params)
    torch, model = theirs(tmp_path / "out", "AutoModelForSequenceClassification")
    tokens, lengths, want = expected(name)
    if name != "classifier":
        want = np.load(GOLDENS / name / "expected.npz")["scores"]
    np.testing.assert_allclose(their_logits(torch, model, tokens, lengths)[0], want, atol=1e-5)


@pytest.mark.parametrize("name", [*LLAMAS, *FAMILIES])
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


@pytest.mark.parametrize("name", LLAMAS)
def test_greedy_generation_token_for_token(tmp_path, name):
    """With stop tokens; the families' completions are goldens."""
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


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 12,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
}


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llama"},
        {"model_type": "llama", "rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 5e5},
        {"model_type": "llama", "rope_parameters": {**LLAMA3, "rope_type": "llama3"}},
        {
            "model_type": "llama",
            "rope_scaling": {**LLAMA3, "rope_type": "llama3"},
            "original_max_position_embeddings": 100,
        },
        {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 6},
        {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7.0}},
        {"model_type": "mistral"},
        {"model_type": "mistral", "sliding_window": None, "rope_theta": 1e6},
        {"model_type": "mistral", "sliding_window": 3, "eos_token_id": [2, 3]},
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 3},
        {"model_type": "qwen3"},
        {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
        {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 0},
        {"model_type": "gemma2"},
        {"model_type": "gemma2", "attn_logit_softcapping": None, "final_logit_softcapping": 5.0},
        {"model_type": "gemma2", "query_pre_attn_scalar": 144, "sliding_window": 9},
        {"model_type": "gemma2", "tie_word_embeddings": False, "pad_token_id": None},
        {"model_type": "gemma3_text"},
        {
            "model_type": "gemma3_text",
            "sliding_window_pattern": 2,
            "rope_scaling": {**GEMMA3_ROPE["full_attention"]},
        },
        {"model_type": "gemma3_text", "rope_local_base_freq": 20.0, "rope_theta": 5.0, "sliding_window": 3},
        {"model_type": "gemma3_text", "rope_parameters": GEMMA3_ROPE, "query_pre_attn_scalar": 168},
    ],
    ids=lambda fields: "-".join(map(str, fields.values()))[:60],
)
def test_a_sparse_config_means_there_what_it_means_here(fields):
    """transformers, reading what we wrote of what we read, sees what it sees in the original."""
    from transformers import AutoConfig

    fields = {**SIZES, "vocab_size": 64, **fields}
    ours = config_to_huggingface(config_from_huggingface(fields))

    def understood(fields):
        # A copy: transformers fills in the dicts it is given.
        config = AutoConfig.for_model(**{k: dict(v) if isinstance(v, dict) else v for k, v in fields.items()})
        config.standardize_rope_params()  # as its rotary embedding does, once all fields are there
        seen = config.to_dict()
        seen["rope_parameters"].pop("type", None)  # an old word for rope_type
        seen["use_bidirectional_attention"] = bool(seen.get("use_bidirectional_attention"))
        # Who wrote it, and what layer_types replaced.
        for key in (
            "architectures", "dtype", "max_window_layers", "_sliding_window_pattern", "sliding_window_pattern",
            "original_max_position_embeddings",
        ):  # fmt: skip
            seen.pop(key, None)
        if "sliding_attention" not in seen.get("layer_types", ["sliding_attention"]):
            for key in ("sliding_window", "use_sliding_window"):
                seen.pop(key, None)
        return seen

    assert understood(ours) == understood(fields)
