"""AdamW and others with a schedule and a clipped gradient, as Hugging Face's Trainer sets them up."""

import re
from typing import Literal

import jax
import optax
from jaxtyping import PyTree

from prefjax.checks import require

Schedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adamw", "adafactor", "lion", "sgd"]
# Of a dotted name in lower case; with them also what `input_layernorm` and `q_norm` match.
NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.|_)norm(?:\.|$)")


def make_schedule(
    learning_rate: float, *, schedule: Schedule = "constant", warmup_steps: int = 0, steps: int
) -> optax.Schedule:
    """Linear warm-up from 0, then constant, or a linear or cosine descent to 0 at `steps`.

    η(t) = η t / w                                t < w  (so the first of w warm-up steps has rate 0)
    η(t) = η · {1, (T-t)/(T-w), (1 + cos(π (t-w)/(T-w)))/2}   after
    """
    require(
        0 <= warmup_steps <= steps,
        "--warmup-steps",
        f"{warmup_steps}",
        f"0 to --steps ({steps})",
        "Lower it.",
    )
    descent = max(steps - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, descent),
        "cosine": optax.cosine_decay_schedule(learning_rate, descent),
    }[schedule]
    if not warmup_steps:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps]
    )


def decayed(params: PyTree) -> PyTree:
    """True for each parameter that weight decay touches: all but biases and norms, told by their names.

    By name, not by shape: the norms of stacked blocks are matrices.
    Source: the rule of transformers' `Trainer.get_decay_parameter_names`; embeddings are decayed.
    """

    def decays(path, _leaf) -> bool:
        return not NOT_DECAYED.search(jax.tree_util.keystr(path, simple=True, separator=".").lower())

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
) -> optax.GradientTransformation:
    """An optimiser after clipping by the global norm; `clip_norm=0` does not clip. Decays weight as `decayed` says.

        adamw      β₁ 0.9, β₂ 0.999, ε 1e-8
        adafactor  no momentum, β₂ 1 - t^-0.8, steps of absolute size; updates are clipped to RMS 1 per array, and
                   stacked blocks are one array (transformers clips every block's alone)
        lion       β₁ 0.9, β₂ 0.99; wants a rate three to ten times lower, and a decay as much higher
        sgd        no momentum; the decay is added to the gradient

    The weight decay of all but `sgd` is decoupled: θ falls by η λ θ in a step.
    Source: Loshchilov and Hutter, 2019 (arXiv:1711.05101); Shazeer and Stern, 2018 (arXiv:1804.04235); Chen et al.,
      2023 (arXiv:2302.06675).
    """
    chosen = {
        "adamw": lambda: optax.adamw(
            schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, mask=decayed
        ),
        # Optax does not multiply this one's decay with the rate.
        "adafactor": lambda: optax.adafactor(
            schedule, multiply_by_parameter_scale=False, weight_decay_mask=decayed,
            weight_decay_rate=(lambda t: weight_decay * schedule(t)) if weight_decay else None,
        ),
        "lion": lambda: optax.lion(schedule, b1=0.9, b2=0.99, weight_decay=weight_decay, mask=decayed),
        "sgd": lambda: optax.chain(optax.add_decayed_weights(weight_decay, decayed), optax.sgd(schedule)),
    }[optimizer]()  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(clip_norm), chosen) if clip_norm else chosen
