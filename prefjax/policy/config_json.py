"""What a Hugging Face `config.json` says of a decoder, as transformers 4 and 5 spell it."""

import json
from pathlib import Path
from typing import Any

from prefjax.checks import InputError, refuse, require
from prefjax.policy.config import DecoderConfig
from prefjax.policy.rope_json import read_rope
from prefjax.policy.windows_json import read_windows

# Family -> architecture of a language model, of a classifier. A family is a `model_type`.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "mistral": ("MistralForCausalLM", "MistralForSequenceClassification"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2ForSequenceClassification"),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"),
}
# Of which the text decoder is taken, and pictures left behind.
MULTIMODAL = "Gemma3ForConditionalGeneration"
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

# What transformers takes where a file is silent, as published files of Gemma are about much.
_LLAMA = {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048}
_QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "max_window_layers": 28}
_GEMMA = {
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "gemma2": {
        **_GEMMA,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3_text": {
        **_GEMMA,
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
    },
}
# Our name -> Hugging Face's, of what has no default anywhere else.
_REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}


def read_config(
    directory: str | Path, *, num_scores: int | None = None, dtype: str = "float32"
) -> DecoderConfig:
    """The `config.json` of a Hugging Face directory.

    Args:
      directory: holds `config.json` as transformers 4 or 5 writes it.
      num_scores: None takes what the file says; k puts a head of k scores on a language model.
      dtype: compute dtype; the file's own is that of its weights and is not used.

    Returns: the configuration. What no such file says (adapters, dtype, remat, scan) is at its default.
    Raises: InputError where the file is missing, malformed, or describes a model that is not supported.
    """
    path = Path(directory) / "config.json"
    require(
        path.is_file(),
        str(path),
        "no such file",
        "a Hugging Face directory holds config.json beside its safetensors files",
        "Check the directory.",
    )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        refuse(str(path), f"not JSON ({error})", "config.json is one JSON object", "Fetch or save it again.")
    require(
        isinstance(fields, dict),
        str(path),
        f"a JSON {type(fields).__name__}",
        "config.json is one JSON object",
        "Fetch or save it again.",
    )
    return config_from_huggingface(fields, where=str(path), num_scores=num_scores, dtype=dtype)


def config_from_huggingface(
    fields: dict[str, Any],
    *,
    where: str = "config.json",
    num_scores: int | None = None,
    dtype: str = "float32",
) -> DecoderConfig:
    """What `config.json` holds, as a `DecoderConfig`. `where` names the file in errors; see `read_config`."""
    family, is_classifier, fields = _family(fields, where)
    _refuse_variants(fields, family, where)
    stored_scores = _stored_scores(fields) if is_classifier else 0
    if num_scores is None:
        num_scores = stored_scores
    require(
        stored_scores in (0, num_scores),
        where,
        f"a classifier with {stored_scores} labels, loaded with num_scores={num_scores}",
        "a directory with a score head is loaded with that head",
        "Drop num_scores, or load the language model that it came from.",
    )

    values: dict[str, Any] = {"family": family}
    for name, key in _REQUIRED.items():
        values[name] = _number(fields, key, int, None, where)
    heads, gemma = values["num_heads"], family.startswith("gemma")
    values["num_kv_heads"] = _number(fields, "num_key_value_heads", int, heads, where)
    head_dim = fields.get("head_dim")
    values["head_dim"] = None if head_dim is None else _number(fields, "head_dim", int, None, where)
    values["rope_theta"], values["rope_scaling"], values["local_rope_theta"] = read_rope(
        fields, by_layer_type=family == "gemma3_text", where=where
    )
    values["windows"] = read_windows(fields, family, values["num_layers"], where=where)
    biased = family in ("llama", "qwen3", "gemma2", "gemma3_text") and bool(fields.get("attention_bias"))
    values["attention_bias"] = biased or family == "qwen2"
    values["attention_output_bias"] = biased
    values["mlp_bias"] = family == "llama" and bool(fields.get("mlp_bias"))
    values["qk_norm"] = family in ("qwen3", "gemma3_text")
    values["activation"] = ACTIVATIONS[_activation(fields, gemma)]
    values["norm_offset"] = values["post_norms"] = values["scale_embeddings"] = gemma
    if gemma:
        values["attention_softcap"] = _cap(fields, "attn_logit_softcapping", where)
        values["logit_softcap"] = _cap(fields, "final_logit_softcapping", where)
        scalar = _number(fields, "query_pre_attn_scalar", float, None, where)
        values["attention_scale"] = None if scalar == head_dim else scalar**-0.5
    values["rms_norm_eps"] = _number(fields, "rms_norm_eps", float, 1e-6, where)
    values["max_position_embeddings"] = _number(fields, "max_position_embeddings", int, 2048, where)
    values["initializer_range"] = _number(fields, "initializer_range", float, 0.02, where)
    values["tie_word_embeddings"] = bool(fields.get("tie_word_embeddings", False))
    eos = fields.get("eos_token_id")
    values["eos_token_ids"] = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    values["bos_token_id"] = fields.get("bos_token_id")
    values["pad_token_id"] = fields.get("pad_token_id")
    try:
        return DecoderConfig(**values, num_scores=num_scores, dtype=dtype)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _family(fields: dict[str, Any], where: str) -> tuple[str, bool, dict[str, Any]]:
    """The family, whether it has a score head, and the fields with what transformers adds to them."""
    named, model_type = fields.get("architectures") or [], fields.get("model_type")
    if named == [MULTIMODAL]:
        text = fields.get("text_config")
        if not isinstance(text, dict):
            refuse(
                where,
                f"text_config is {text!r}",
                f"{MULTIMODAL} describes its text decoder there",
                "Fetch the file again.",
            )
        kept = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config")
        outside = {key: fields[key] for key in kept if fields.get(key) is not None}
        return "gemma3_text", False, {**DEFAULTS["gemma3_text"], **text, **outside}
    for family, architectures in ARCHITECTURES.items():
        if (len(named) == 1 and named[0] in architectures) or (not named and model_type == family):
            require(
                model_type in (None, family),
                where,
                f"the architecture is {named}, model_type {model_type!r}",
                f"that architecture is of model_type {family!r}",
                "Use the config.json that came with the weights.",
            )
            return family, named == [architectures[1]], {**DEFAULTS[family], **fields}
    got = ", ".join(map(str, named)) or f"none (model_type {model_type!r})"
    supported = [name for pair in ARCHITECTURES.values() for name in pair]
    refuse(
        where,
        f"the architecture is {got}",
        f"these are supported: {', '.join([*supported, MULTIMODAL])}",
        "Use a model of one of these families.",
    )


def _activation(fields: dict[str, Any], gemma: bool) -> str:
    return fields.get("hidden_activation" if gemma else "hidden_act") or "silu"


def _refuse_variants(fields: dict[str, Any], family: str, where: str) -> None:
    """What changes the computation, and this decoder does not compute."""
    gemma = family.startswith("gemma")
    activation = _activation(fields, gemma)
    require(
        activation in ACTIVATIONS,
        where,
        f"{'hidden_activation' if gemma else 'hidden_act'} is {activation!r}",
        f"the MLP here is gated by one of {', '.join(ACTIVATIONS)}",
        "Use another model.",
    )
    require(
        not fields.get("quantization_config"),
        where,
        f"the weights are quantised (quantization_config is {fields.get('quantization_config')})",
        "weights are float32, bfloat16, float16 or float64",
        "Use the unquantised model.",
    )
    require(
        not fields.get("use_bidirectional_attention"),
        where,
        f"use_bidirectional_attention is {fields.get('use_bidirectional_attention')}",
        "attention is causal here",
        "Use a model that generates text.",
    )
    # transformers has the field and does not use it: which of the two was meant, no file can tell.
    capped = family == "gemma3_text" and fields.get("attn_logit_softcapping") is not None
    require(
        not capped,
        where,
        f"attn_logit_softcapping is {fields.get('attn_logit_softcapping')}",
        "attention scores of Gemma 3 are not capped",
        "Set it to null if the model was trained so.",
    )


def _stored_scores(fields: dict[str, Any]) -> int:
    # The number of labels is the length of id2label; transformers leaves it out where it is its default, 2.
    labels = fields.get("id2label")
    return len(labels) if labels else int(fields.get("num_labels", 2))


def _cap(fields: dict[str, Any], key: str, where: str) -> float | None:
    return None if fields.get(key) is None else _number(fields, key, float, None, where)


def _number(fields: dict[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = fields.get(key)
    value = default if value is None else value
    require(
        value is not None,
        where,
        f'"{key}" is missing',
        "it says what the weights mean",
        "Use the config.json that came with the weights.",
    )
    fits = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    require(
        fits and value > 0,
        where,
        f'"{key}" is {value!r}',
        f"it is a positive {'number' if kind is float else 'integer'}",
        "Correct the file.",
    )
    return kind(value)
