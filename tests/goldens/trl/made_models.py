"""Tiny models with random weights, of every family, in which everything a family has makes a difference."""

import copy
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
}
# Rows have 10 to 60 tokens: windows are shorter, and stretched frequencies turn within a row.
FAMILY = {**SHAPE, "intermediate_size": 48}
GEMMA = {
    **FAMILY,
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 6,
    "tie_word_embeddings": True,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DUAL = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
}


def _default(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


# Directory: classes, settings, and changes of the settings that have to make a difference.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], list[dict[str, Any]]]] = {
    "llama3": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            **FAMILY,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {**LLAMA3, "rope_theta": 100.0, "original_max_position_embeddings": 32},
        },
        [{"rope_parameters": _default(100.0)}],
    ),
    "mistral": (
        "MistralConfig",
        "MistralForCausalLM",
        {**FAMILY, "head_dim": 12, "sliding_window": 6, "rope_parameters": _default(100.0)},
        [{"sliding_window": None}, {"sliding_window": 7}],
    ),
    "qwen2": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {**FAMILY, "tie_word_embeddings": True, "rope_parameters": _default(300.0)},
        [{"rope_parameters": _default(100.0)}],
    ),
    "qwen3": (
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {**FAMILY, "head_dim": 16, "rope_parameters": _default(300.0)},
        [{"rope_parameters": _default(100.0)}],
    ),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {
            **GEMMA,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "rope_parameters": _default(100.0),
            # What transformers asks for: its other attention has no soft cap.
            "attn_implementation": "eager",
        },
        [
            {"attn_logit_softcapping": None},
            {"final_logit_softcapping": None},
            {"query_pre_attn_scalar": 12},
            {"sliding_window": 7},
            {"layer_types": ["full_attention", "sliding_attention"]},
        ],
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**GEMMA, "num_hidden_layers": 4, "sliding_window_pattern": 3, "rope_parameters": DUAL},
        [
            {"rope_parameters": {**DUAL, "full_attention": _default(500.0)}},
            {"rope_parameters": {**DUAL, "sliding_attention": _default(500.0)}},
            {"query_pre_attn_scalar": 12},
            {"sliding_window": 7},
            {"sliding_window_pattern": 2},
        ],
    ),
}


def make_llama(kind, tokenizer, seed: int) -> transformers.PreTrainedModel:
    """The models of most curves, in float32."""
    torch.manual_seed(seed)
    labels = {"num_labels": 1} if kind is transformers.LlamaForSequenceClassification else {}
    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=False, **_of(tokenizer), **labels)
    return randomised(kind(config).float())


def make_family(
    family: str, tokenizer, seed: int, *, kind: str = "", vocab_size: int | None = None
) -> transformers.PreTrainedModel:
    """A model of one of FAMILIES, whose numbers are those of bfloat16, in which it is saved.

    `kind` is another class than the language model's.
    """
    torch.manual_seed(seed)
    config_class, model_class, settings, _ = FAMILIES[family]
    settings = {"tie_word_embeddings": False, **settings, **_of(tokenizer)}
    if vocab_size is not None:
        settings["vocab_size"] = vocab_size
    if kind:
        settings |= {"tie_word_embeddings": False, "num_labels": 1}
    config = getattr(transformers, config_class)(**settings)
    return randomised(getattr(transformers, kind or model_class)(config).float()).to(torch.bfloat16)


def _of(tokenizer) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@torch.no_grad()
def randomised(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    middle = neutral_scale(model)
    # Sorted by name, so that the draw does not hang on the order in which a library builds layers.
    for name, weight in sorted(model.named_parameters()):
        weight.uniform_(middle - 0.5, middle + 0.5) if "norm" in name else weight.normal_(0.0, 0.2)
    return model


def neutral_scale(model: transformers.PreTrainedModel) -> float:
    """The scale of a norm that does nothing: Gemma's multiply by 1 + scale."""
    return 0.0 if model.config.model_type.startswith("gemma") else 1.0


@torch.no_grad()
def require_that_all_matters(
    family: str, model: transformers.PreTrainedModel, texts: list[str], tokenizer
) -> None:
    """Each setting, each kind of norm and of bias moves the log-probability of a text by a hundredth of a nat
    a token at least; what the curve compares is exact to a hundred-thousandth."""
    model = model.float().eval()
    # A copy, since a tokeniser keeps the padding that it was asked for.
    batch = copy.deepcopy(tokenizer)(texts, return_tensors="pt", padding=True)

    def logps(other) -> torch.Tensor:
        logits = other(**batch).logits[:, :-1].log_softmax(-1)
        each = logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return (each * batch["attention_mask"][:, 1:]).sum(-1) / batch["attention_mask"][:, 1:].sum(-1)

    ours = logps(model)
    config_class, _, settings, changes = FAMILIES[family]
    settings = {"tie_word_embeddings": False, **settings, **_of(tokenizer)}
    moved = {}
    for change in changes:
        other = type(model)(getattr(transformers, config_class)(**{**settings, **change})).eval()
        other.load_state_dict(model.state_dict())
        moved[str(change)[:60]] = (logps(other) - ours).abs().max().item()
    names = [n for n, _ in model.named_parameters() if "norm" in n or n.endswith("bias")]
    for kind in sorted({n.split(".", 3)[-1] if ".layers." in n else n for n in names}):
        other = copy.deepcopy(model)
        for name, weight in other.named_parameters():
            if name.endswith(kind):
                weight.fill_(neutral_scale(model) if "norm" in kind else 0.0)
        moved[kind] = (logps(other) - ours).abs().max().item()
    print(f"{family}: moved by", {what: round(by, 3) for what, by in moved.items()})
    assert min(moved.values()) > 0.01, "what the curve would not notice"


def shake(path, into) -> None:
    """Multiplies the weights of a file by 1 ± 1e-7, each by a draw of its own."""
    torch.manual_seed(7)
    moved = {
        k: (v.double() * (1 + 1e-7 * torch.randn(v.shape).sign().double())).float()
        for k, v in load_file(path).items()
    }
    save_file(moved, into, metadata={"format": "pt"})
