"""How a `config.json` says which blocks see only what is near: another way in every family."""

from typing import Any

from prefjax.checks import require
from prefjax.policy.config import DecoderConfig

LOCAL, FAR = "sliding_attention", "full_attention"


def read_windows(fields: dict[str, Any], family: str, num_layers: int, *, where: str) -> tuple[int, ...]:
    """How many tokens each block sees back, itself included; 0 is all. Empty where all blocks see everything.

    `sliding_window` says how far; which blocks, `layer_types`, or where that is missing the habit of the family:
    all of a Mistral, those from `max_window_layers` on of a Qwen if `use_sliding_window`, every other of a Gemma 2,
    all but one in `sliding_window_pattern` of a Gemma 3.

    Raises: InputError where the fields contradict each other.
    """
    if family == "llama":
        return ()
    qwen = family.startswith("qwen")
    window = fields.get("sliding_window", 4096)
    if qwen and not fields.get("use_sliding_window"):
        window = None
    require(
        window is None or _counts(window, 1),
        where,
        f"sliding_window is {window!r}",
        "a positive number of tokens, or null",
        "Correct the file.",
    )
    habit = _habit(fields, family, num_layers, window is not None, where)
    types = fields.get("layer_types") or habit
    require(
        isinstance(types, list) and len(types) == num_layers and all(kind in (LOCAL, FAR) for kind in types),
        where,
        f"layer_types is {types}",
        f'"{LOCAL}" or "{FAR}" for each of the {num_layers} blocks',
        "Use a model of one of the supported families.",
    )
    # All blocks of Mistral are alike: layer_types are of other models with that name, and not obeyed there.
    require(
        family != "mistral" or types == habit,
        where,
        f"sliding_window is {window}, layer_types {types}",
        "every block of a Mistral has the same window",
        "Drop layer_types if they are a mistake.",
    )
    require(
        window is not None or LOCAL not in types,
        where,
        f"sliding_window is {fields.get('sliding_window')}"
        + (f", use_sliding_window {fields.get('use_sliding_window')}" if qwen else "")
        + f", layer_types {types}",
        f"a block with {LOCAL} has a window",
        "Correct the file.",
    )
    return tuple(window if kind == LOCAL else 0 for kind in types) if LOCAL in types else ()


def write_windows(config: DecoderConfig) -> dict[str, Any]:
    """The fields; of several different windows only the largest can be said."""
    if config.family == "llama":
        return {}
    window = max(config.windows, default=0) or None
    if config.family == "mistral":
        return {"sliding_window": window}
    types = [LOCAL if here else FAR for here in config.windows or (0,) * config.num_layers]
    if config.family.startswith("gemma"):
        return {"sliding_window": window or 4096, "layer_types": types}
    # What layer_types replaced; it can only say that windows begin somewhere and go on to the end.
    first = types.index(LOCAL) if window else config.num_layers
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": first,
        "layer_types": types,
    }


def _habit(fields: dict[str, Any], family: str, num_layers: int, given: bool, where: str) -> list[str]:
    blocks = range(num_layers)
    if family == "mistral":
        local = [given] * num_layers
    elif family.startswith("qwen"):
        first: Any = fields.get("max_window_layers")
        require(
            _counts(first, 0),
            where,
            f"max_window_layers is {first!r}",
            "the number of the first block with a window",
            "Correct the file.",
        )
        local = [given and i >= first for i in blocks]
    elif family == "gemma2":
        local = [i % 2 == 0 for i in blocks]
    else:
        pattern: Any = fields.get("sliding_window_pattern")
        require(
            _counts(pattern, 1),
            where,
            f"sliding_window_pattern is {pattern!r}",
            "every how many blocks one sees everything",
            "Correct the file.",
        )
        local = [(i + 1) % pattern > 0 for i in blocks]
    return [LOCAL if here else FAR for here in local]


def _counts(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
