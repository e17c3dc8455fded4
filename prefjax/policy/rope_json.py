"""How a `config.json` spells rotary positions: at the top and in `rope_scaling`, or in `rope_parameters`."""

import math
from typing import Any

from prefjax.checks import refuse, require
from prefjax.policy.config import DecoderConfig, RopeScaling

KINDS = ("default", "linear", "llama3")


def read_rope(
    fields: dict[str, Any], *, by_layer_type: bool, where: str
) -> tuple[float, RopeScaling | None, float | None]:
    """Base and scaling of blocks that see everything, and the base of those with a window.

    Version 4 writes `rope_theta` at the top, `rope_scaling` or null, and for Gemma 3 `rope_local_base_freq`;
    version 5 puts all of it in `rope_parameters`, for Gemma 3 once for each kind of block. Where both are
    there, `rope_scaling` counts, as in transformers.

    Args:
      fields: of the file.
      by_layer_type: whether the family has two kinds of block.
      where: names the file in errors.

    Returns: theta, scaling (None: none), local theta (None: the same for all blocks).
    Raises: InputError for rotations that are not supported.
    """
    for name in ("rope_scaling", "rope_parameters"):
        require(
            isinstance(fields.get(name) or {}, dict),
            where,
            f"{name} is {fields[name]!r}" if name in fields else "",
            "it is an object or null",
            "Correct the file.",
        )
    _require_whole_heads(fields, "", where)
    new, old = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
    nested = any(isinstance(value, dict) for value in new.values())
    require(
        nested == by_layer_type or not new,
        where,
        f"rope_parameters is {new}",
        "one entry for each kind of block" if by_layer_type else "the parameters of all blocks",
        "Use the config.json that came with the weights.",
    )
    if not by_layer_type:
        name, rope = ("rope_scaling", old) if old else ("rope_parameters", new)
        theta = rope.get("rope_theta", fields.get("rope_theta", 10000.0))
        return _positive(theta, "rope_theta", where), _scaling(rope, name, fields, where), None
    far = {**(new.get("full_attention") or {}), **old}
    near = new.get("sliding_attention") or {}
    name = "rope_parameters of sliding_attention"
    kind = _kind(near, name, where)
    require(
        kind == "default",
        where,
        f'{name} have rope_type "{kind}"',
        "blocks with a window are not stretched",
        "Use another model.",
    )
    local_theta = near.get("rope_theta", fields.get("rope_local_base_freq", 10000.0))
    return (
        _positive(far.get("rope_theta", fields.get("rope_theta", 1000000.0)), "rope_theta", where),
        _scaling(far, "rope_scaling" if old else "rope_parameters of full_attention", fields, where),
        _positive(local_theta, "rope_local_base_freq", where),
    )


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """The fields for both versions."""
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not None:
        stretch = config.rope_scaling
        scaling = {"rope_type": stretch.kind, "factor": stretch.factor}
        if stretch.kind == "llama3":
            for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
                scaling[key] = getattr(stretch, key)
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": config.rope_theta}
    fields: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": scaling}
    if config.family != "gemma3_text":
        return {**fields, "rope_parameters": parameters}
    local = config.rope_theta if config.local_rope_theta is None else config.local_rope_theta
    near = {"rope_type": "default", "rope_theta": local}
    return {
        **fields,
        "rope_local_base_freq": local,
        "rope_parameters": {"full_attention": parameters, "sliding_attention": near},
    }


def _kind(rope: dict[str, Any], name: str, where: str) -> str:
    _require_whole_heads(rope, f"{name}: ", where)
    return rope.get("rope_type", rope.get("type", "default"))


def _scaling(rope: dict[str, Any], name: str, fields: dict[str, Any], where: str) -> RopeScaling | None:
    kind = _kind(rope, name, where)
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", _positive(rope.get("factor"), f"factor of {name}", where))
    if kind != "llama3":
        refuse(
            where,
            f'{name} asks for rope_type "{kind}"',
            f"rotary positions are one of {', '.join(KINDS)}",
            "Use a model without such positions.",
        )
    low, high, factor = (
        _positive(rope.get(key), f"{key} of {name}", where)
        for key in ("low_freq_factor", "high_freq_factor", "factor")
    )
    require(
        high > low,
        where,
        f"{name} has high_freq_factor {high}, low_freq_factor {low}",
        "the first is the larger",
        "Correct the file.",
    )
    # transformers looks in three places, the outermost first.
    original = fields.get("original_max_position_embeddings")
    if original is None:
        original = rope.get("original_max_position_embeddings", fields.get("max_position_embeddings"))
    length = _positive(original, f"original_max_position_embeddings of {name}", where)
    return RopeScaling("llama3", factor, low, high, int(length))


def _require_whole_heads(rope: dict[str, Any], name: str, where: str) -> None:
    part = rope.get("partial_rotary_factor")
    require(
        part in (None, 1.0),
        where,
        f"{name}partial_rotary_factor is {part}",
        "whole heads are rotated here",
        "Use another model.",
    )


def _positive(value: Any, name: str, where: str) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    require(good, where, f'"{name}" is {value!r}', "it is a positive number", "Correct the file.")
    return float(value)
