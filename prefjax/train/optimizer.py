"""AdamW with a schedule and a clipped gradient, as Hugging Face's Trainer sets it up."""

from typing import Literal

import jax
import optax

from prefjax.checks import require

Schedule = Literal["constant", "linear", "cosine"]


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


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float = 0.0, clip_norm: float = 1.0
) -> optax.GradientTransformation:
    """AdamW (β₁ 0.9, β₂ 0.999, ε 1e-8) after clipping by the global norm; `clip_norm=0` does not clip.

    Weight decay touches matrices only, not norms and biases.
    """
    adamw = optax.adamw(
        schedule,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw) if clip_norm else adamw
