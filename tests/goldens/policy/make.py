"""Small random models of every family, and what transformers computes with them. Needs the extra `[oracle]`.

    python tests/goldens/policy/make.py [NAME ...]

writes beside itself, each with `expected.npz`: `tied/` (one file, heads wider than hidden / heads), `untied/`
(bfloat16, several files) and `classifier/` (three scores), of Llama; a directory for each of FAMILIES, with
greedy completions and the scores of a classifier on the same body; and `config_transformers4.json` where it
runs under transformers 4. Everything follows from the seeds below.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that attention and the scores are far from uniform
}
LENGTHS = (11, 7, 3)

# Of the families: heads are not hidden / heads wide, windows are shorter than the rows, caps bend, stretched
# frequencies turn within a row. Rows of 24 tokens; completions of 40 go far past every window.
FAMILY_LENGTHS = (24, 17, 5)
PROMPT_LENGTHS = (9, 4, 14)
NEW_TOKENS = 40
FAMILY_SHAPE = {**SHAPE, "intermediate_size": 40, "num_hidden_layers": 3, "head_dim": 12}
GEMMA = {"num_hidden_layers": 4, "sliding_window": 5, "query_pre_attn_scalar": 20}
FAMILIES: dict[str, dict] = {
    "llama3": {
        "classes": ("LlamaConfig", "LlamaForCausalLM", "LlamaForSequenceClassification"),
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        "classes": ("MistralConfig", "MistralForCausalLM", "MistralForSequenceClassification"),
        "sliding_window": 5,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
    },
    "qwen2": {
        "classes": ("Qwen2Config", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
        "head_dim": None,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        "stored": {"dtype": torch.bfloat16, "max_shard_size": "20KB"},
    },
    "qwen3": {
        "classes": ("Qwen3Config", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "gemma2": {
        "classes": ("Gemma2Config", "Gemma2ForCausalLM", "Gemma2ForSequenceClassification"),
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "stored": {"dtype": torch.bfloat16},
        **GEMMA,
    },
    "gemma3": {
        "classes": ("Gemma3TextConfig", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
        "sliding_window_pattern": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
        **GEMMA,
    },
}
_DEFAULT = {"rope_type": "default", "rope_theta": 100.0}
# What each family has that another has not: without it, logits must differ, or the golden would not notice.
WITHOUT: dict[str, list[dict]] = {
    "llama3": [{"rope_parameters": _DEFAULT}],
    "mistral": [{"rope_parameters": _DEFAULT}, {"sliding_window": None}, {"sliding_window": 6}],
    "qwen2": [
        {"use_sliding_window": False},
        {"max_window_layers": 0},
        {"max_window_layers": 2},
        {"rope_parameters": _DEFAULT},
    ],
    "qwen3": [
        {"rope_parameters": _DEFAULT},
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 9},
    ],
    "gemma2": [
        {"attn_logit_softcapping": None},
        {"final_logit_softcapping": None},
        {"query_pre_attn_scalar": 12},
        {"sliding_window": 6},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
        {"hidden_activation": "silu"},
    ],
    "gemma3": [
        {"rope_parameters": {**FAMILIES["gemma3"]["rope_parameters"], "full_attention": _DEFAULT}},
        {"rope_parameters": {**FAMILIES["gemma3"]["rope_parameters"], "sliding_attention": _DEFAULT}},
        {"query_pre_attn_scalar": 12},
        {"sliding_window": 6},
        {"sliding_window_pattern": 2},
    ],
}
SEEDS = {"llama3": 0, "mistral": 11, "qwen2": 2, "qwen3": 33, "gemma2": 244, "gemma3": 35}


@torch.no_grad()
def randomised(model_class, config, seed: int, *, damped: bool = False):
    """`damped`: smaller embeddings; a tied model says what it has just read again and again otherwise."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones or zeros otherwise: a norm that forgot its scale would pass
            middle = 0.0 if config.model_type.startswith("gemma") else 1.0
            parameter.uniform_(middle - 0.5, middle + 0.5)
        elif name == "model.embed_tokens.weight" and damped:
            parameter.mul_(0.2)
        elif name.endswith("bias"):  # zeros otherwise
            parameter.normal_(std=0.1 if "self_attn" not in name else 0.5)
    return model


def batch(lengths, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, SHAPE["vocab_size"], (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    return tokens * mask, mask


@torch.no_grad()
def write(name: str, model, lengths=LENGTHS, **how) -> tuple:
    """The directory; the model as read back from it, and what it says of a batch."""
    directory = HERE / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory, **how)
    tokens, mask = batch(lengths)
    # Read again, since a model cast to bfloat16 and back has also rounded its rotary frequencies.
    model = type(model).from_pretrained(directory, dtype=torch.float32).eval()
    out = model(input_ids=tokens, attention_mask=mask).logits
    return model, {"tokens": tokens, "lengths": np.array(lengths), "logits": out}


def save(name: str, arrays: dict) -> None:
    np.savez_compressed(HERE / name / "expected.npz", **{key: np.asarray(x) for key, x in arrays.items()})


@torch.no_grad()
def require_that_all_matters(name: str, model, config_class, settings: dict, logits) -> None:
    """Each setting and each kind of norm scale and bias moves some logit by a tenth of their deviation."""
    tokens, mask = batch(FAMILY_LENGTHS)

    def moved(other) -> float:
        out = other(input_ids=tokens, attention_mask=mask).logits
        return ((out - logits) * mask[..., None]).abs().max().item() / logits.std().item()

    measured = {}
    for change in WITHOUT[name]:
        other = type(model)(config_class(**{**settings, **change})).eval()
        other.load_state_dict(model.state_dict())
        measured[str(change)[:60]] = moved(other)
    names = [n for n, _ in model.named_parameters() if "norm" in n or n.endswith("bias")]
    kinds = {n.split(".", 3)[-1] if ".layers." in n else n for n in names}
    for kind in sorted(kinds):
        other = type(model)(model.config).eval()
        other.load_state_dict(model.state_dict())
        neutral = 1.0 if "norm" in kind and not name.startswith("gemma") else 0.0
        for parameter_name, parameter in other.named_parameters():
            if parameter_name.endswith(kind):
                parameter.fill_(neutral)
        measured[kind] = moved(other)
    print("  moved by", {what: round(by, 2) for what, by in measured.items()})
    assert min(measured.values()) > 0.1, "what the golden would not notice"


@torch.no_grad()
def completions(model) -> dict:
    """Greedy, each prompt alone and without padding, past every window; 40 tokens whatever they are."""
    prompts, _ = batch(PROMPT_LENGTHS, seed=6)
    model.generation_config.eos_token_id = None
    generated = []
    for prompt, length in zip(prompts, PROMPT_LENGTHS, strict=True):
        out = model.generate(
            prompt[None, :length], max_new_tokens=NEW_TOKENS, do_sample=False, output_logits=True,
            return_dict_in_generate=True, pad_token_id=0,
        )  # fmt: skip
        best = torch.stack(out.logits).topk(2).values
        margin = (best[..., 0] - best[..., 1]).min().item()
        row = out.sequences[0, length:].tolist()
        print(f"  {len(set(row))} distinct tokens of {NEW_TOKENS}, closest call {margin:.4f}")
        assert len(row) == NEW_TOKENS
        assert len(set(row)) >= 12, "a dull completion tests little: take another seed"
        assert margin > 5e-4, "too close to call in float32: take another seed"
        generated.append(row)
    return {"prompts": prompts, "prompt_lengths": np.array(PROMPT_LENGTHS), "generated": np.array(generated)}


@torch.no_grad()
def scored(model, classifier_class, name: str) -> dict:
    """Scores of a classifier with the body of this language model; and its config.json, beside the other."""
    fields = {key: value for key, value in model.config.to_dict().items() if "label" not in key}
    config = type(model.config)(**fields, num_labels=3)
    classifier = classifier_class(config).eval()
    # Not by from_pretrained, which makes a tied head of the language model into a warning and no more.
    classifier.model.load_state_dict(model.model.state_dict())
    with tempfile.TemporaryDirectory() as directory:
        classifier.save_pretrained(directory)
        shutil.copyfile(Path(directory) / "config.json", HERE / name / "classifier.json")
        classifier = classifier_class.from_pretrained(directory, dtype=torch.float32).eval()
    tokens, mask = batch(FAMILY_LENGTHS)
    scores = classifier(input_ids=tokens, attention_mask=mask).logits
    return {"score": classifier.score.weight.detach(), "scores": scores}


def write_family(name: str) -> None:
    settings = {**FAMILY_SHAPE, "tie_word_embeddings": False, **FAMILIES[name]}
    stored = dict(settings.pop("stored", {}))
    config_class, model_class, classifier_class = (getattr(transformers, c) for c in settings.pop("classes"))
    if name.startswith("gemma"):
        settings["tie_word_embeddings"] = True
    if settings["head_dim"] is None:
        del settings["head_dim"]
    tied = settings["tie_word_embeddings"]
    model = randomised(model_class, config_class(**settings), SEEDS[name], damped=tied)
    model = model.to(stored.pop("dtype", torch.float32))
    print(name)
    model, arrays = write(name, model, FAMILY_LENGTHS, **stored)
    assert arrays["logits"].std() > 0.2
    require_that_all_matters(name, model, config_class, settings, arrays["logits"])
    arrays |= scored(model, classifier_class, name)
    save(name, arrays | completions(model))


def write_llamas() -> None:
    llama, rope = transformers.LlamaConfig, {"rope_type": "default", "rope_theta": 50000.0}
    config = llama(**SHAPE, tie_word_embeddings=True, head_dim=16, rope_parameters=rope)
    save("tied", write("tied", randomised(transformers.LlamaForCausalLM, config, 0))[1])
    config = llama(**SHAPE, tie_word_embeddings=False, rms_norm_eps=1e-5)
    untied = randomised(transformers.LlamaForCausalLM, config, 1).to(torch.bfloat16)
    save("untied", write("untied", untied, max_shard_size="20KB")[1])
    config = llama(**{**SHAPE, "num_hidden_layers": 1}, num_labels=3)
    classifier = randomised(transformers.LlamaForSequenceClassification, config, 2)
    save("classifier", write("classifier", classifier)[1])


if __name__ == "__main__":
    if transformers.__version__.startswith("4."):
        config = transformers.LlamaConfig(**SHAPE, rope_theta=50000.0, architectures=["LlamaForCausalLM"])
        text = config.to_json_string()
        (HERE / "config_transformers4.json").write_text(text)
        assert "rope_theta" in json.loads(text)
    else:
        names = sys.argv[1:] or ["llamas", *FAMILIES]
        for name in names:
            write_llamas() if name == "llamas" else write_family(name)
