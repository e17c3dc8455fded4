"""How a Hugging Face `config.json` spells the shape of a decoder, in transformers 4 and 5."""

import json
from pathlib import Path
from typing import Any

from prefjax.checks import InputError, refuse, require
from prefjax.policy.config import DecoderConfig

CAUSAL_LM = "LlamaForCausalLM"
SEQUENCE_CLASSIFICATION = "LlamaForSequenceClassification"
SUPPORTED = (CAUSAL_LM, SEQUENCE_CLASSIFICATION)

# Our name -> Hugging Face's. The first group has no default there that one could rely on.
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

    Returns: the configuration.
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
    architecture = _architecture(fields, where)
    _refuse_variants(fields, where)
    stored_scores = _stored_scores(fields) if architecture == SEQUENCE_CLASSIFICATION else 0
    if num_scores is None:
        num_scores = stored_scores
    require(
        stored_scores in (0, num_scores),
        where,
        f"a classifier with {stored_scores} labels, loaded with num_scores={num_scores}",
        "a directory with a score head is loaded with that head",
        "Drop num_scores, or load the language model that it came from.",
    )

    values: dict[str, Any] = {}
    for name, key in _REQUIRED.items():
        values[name] = _number(fields, key, int, None, where)
    values["num_kv_heads"] = _number(fields, "num_key_value_heads", int, values["num_heads"], where)
    head_dim = fields.get("head_dim")
    values["head_dim"] = None if head_dim is None else _number(fields, "head_dim", int, None, where)
    values["rope_theta"] = _rope_theta(fields, where)
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


def config_to_huggingface(config: DecoderConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The fields of a `config.json` that transformers 4 and 5 both read.

    Version 4 takes `rope_theta` and `torch_dtype`, version 5 `rope_parameters` and `dtype`; both are written.
    `dtype` is that of the stored weights.
    """
    eos: int | list[int] | None
    if len(config.eos_token_ids) > 1:
        eos = list(config.eos_token_ids)
    else:
        eos = config.eos_token_ids[0] if config.eos_token_ids else None
    fields: dict[str, Any] = {
        "architectures": [SEQUENCE_CLASSIFICATION if config.num_scores else CAUSAL_LM],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "use_cache": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    if config.num_scores:
        # transformers counts labels; it has no field for their number.
        fields["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_scores)}
        fields["label2id"] = {f"LABEL_{i}": i for i in range(config.num_scores)}
    return fields


def _architecture(fields: dict[str, Any], where: str) -> str:
    named = fields.get("architectures") or ([CAUSAL_LM] if fields.get("model_type") == "llama" else [])
    if len(named) == 1 and named[0] in SUPPORTED:
        return named[0]
    got = ", ".join(map(str, named)) or f"none (model_type {fields.get('model_type')!r})"
    refuse(
        where,
        f"the architecture is {got}",
        f"these are supported: {', '.join(SUPPORTED)}",
        "Use a model of the Llama family.",
    )


def _refuse_variants(fields: dict[str, Any], where: str) -> None:
    """Options of the family that change the computation and that this decoder does not have."""
    for name in ("attention_bias", "mlp_bias"):
        require(
            not fields.get(name),
            where,
            f"{name} is true",
            "linear layers here have no bias",
            "Use a model without biases.",
        )
    activation = fields.get("hidden_act", "silu")
    require(
        activation in ("silu", "swish"),
        where,
        f"hidden_act is {activation!r}",
        "the MLP here is gated by silu",
        "Use a model of the Llama family.",
    )
    require(
        not fields.get("quantization_config"),
        where,
        "the weights are quantised (quantization_config)",
        "weights are float32, bfloat16 or float16",
        "Use the unquantised model.",
    )


def _rope_theta(fields: dict[str, Any], where: str) -> float:
    # Version 4 writes rope_theta at the top and rope_scaling or null; version 5 puts both in rope_parameters.
    theta = fields.get("rope_theta", 10000.0)
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name) or {}
        require(
            isinstance(rope, dict),
            where,
            f"{name} is {rope!r}",
            "it is an object or null",
            "Correct the file.",
        )
        kind = rope.get("rope_type", rope.get("type", "default"))
        require(
            kind == "default",
            where,
            f'{name} asks for rope_type "{kind}"',
            'rotary positions are supported unscaled (rope_type "default") only',
            "Use a model without scaled positions.",
        )
        require(
            rope.get("partial_rotary_factor", 1.0) == 1.0,
            where,
            f"{name} has partial_rotary_factor {rope.get('partial_rotary_factor')}",
            "whole heads are rotated here",
            "Use a model of the Llama family.",
        )
        theta = rope.get("rope_theta", theta)
    return _number({"rope_theta": theta}, "rope_theta", float, None, where)


def _stored_scores(fields: dict[str, Any]) -> int:
    # The number of labels is the length of id2label; transformers leaves it out where it is its default, 2.
    labels = fields.get("id2label")
    return len(labels) if labels else int(fields.get("num_labels", 2))


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
