"""A decoder's configuration as the `config.json` of its family."""

from dataclasses import fields as fields_of
from dataclasses import replace
from math import isclose
from typing import Any

from prefjax.checks import InputError, refuse
from prefjax.policy.config import DecoderConfig
from prefjax.policy.config_json import ACTIVATIONS, ARCHITECTURES, config_from_huggingface
from prefjax.policy.rope_json import write_rope
from prefjax.policy.windows_json import write_windows

# How a decoder is run and what is learned beside it: nothing that a file says of the model.
OURS_ALONE = ("lora", "dtype", "remat", "scan_layers")


def config_to_huggingface(config: DecoderConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The fields of a `config.json` that transformers 4 and 5 both read.

    Version 4 takes `rope_theta`, `rope_scaling` and `torch_dtype`, version 5 `rope_parameters` and `dtype`; both
    are written. What the file cannot say (`lora`, `dtype`, `remat`, `scan_layers`) is left out.

    Args:
      config: the decoder.
      dtype: of the stored weights.

    Returns: the fields.
    Raises: InputError where the family has no word for something that this decoder does.
    """
    gemma, classifier = config.family.startswith("gemma"), config.num_scores > 0
    activation = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family][classifier]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_activation" if gemma else "hidden_act": activation,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        **write_rope(config),
        **write_windows(config),
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "use_cache": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _eos(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if config.family == "qwen2" and config.width * config.num_heads == config.hidden_size:
        del fields["head_dim"]  # a Qwen 2 has none of its own
    if config.family not in ("mistral", "qwen2"):
        fields["attention_bias"] = config.attention_bias
    if config.family == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if gemma:
        fields["attn_logit_softcapping"] = config.attention_softcap
        fields["final_logit_softcapping"] = config.logit_softcap
        fields["query_pre_attn_scalar"] = _whole(config.score_scale**-2)
        fields["use_bidirectional_attention"] = False
    if classifier:
        # transformers counts labels; it has no field for their number.
        fields["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_scores)}
        fields["label2id"] = {f"LABEL_{i}": i for i in range(config.num_scores)}
    _require_said(config, fields)
    return fields


def _eos(tokens: tuple[int, ...]) -> int | list[int] | None:
    return list(tokens) if len(tokens) > 1 else tokens[0] if tokens else None


def _whole(value: float) -> float | int:
    """An integer where it is one but for rounding: transformers takes no other."""
    return round(value) if isclose(value, round(value), rel_tol=1e-9) else value


def _require_said(config: DecoderConfig, fields: dict[str, Any]) -> None:
    """What is written is what would be read."""
    try:
        again = config_from_huggingface(fields)
    except InputError as error:
        raise InputError(f"DecoderConfig of family {config.family!r}, as config.json: {error}") from None
    same = {name: getattr(config, name) for name in OURS_ALONE}
    if isclose(again.score_scale, config.score_scale, rel_tol=1e-9):
        same["attention_scale"] = config.attention_scale
    if not any(config.windows):
        same["windows"] = config.windows if not again.windows else again.windows
    if config.local_rope_theta is None and config.rope_scaling is None:
        same["local_rope_theta"] = None
    again = replace(again, **same)
    for field in fields_of(config):
        ours, theirs = getattr(config, field.name), getattr(again, field.name)
        if ours != theirs:
            refuse(
                "DecoderConfig",
                f"{field.name} is {ours}",
                f"in a config.json of family {config.family!r} it is {theirs}",
                "Give the decoder the family that has it, or change it.",
            )
