"""A loss as a function of one number: what the others are held at, its curve, its slope, a worked example."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from prefjax.checks import require

POINTS = 401  # everywhere the same, so that each primitive compiles once


class Axis(NamedTuple):
    """What is varied: the name of x, the range drawn, and the x of the worked number."""

    label: str
    low: float
    high: float
    worked: float


PAIR = Axis("ρ⁺ - ρ⁻, nats", -40.0, 40.0, 1.5)
TOKEN = Axis("log π(yₜ|·)/π_b(yₜ|·), nats", -2.0, 2.0, 0.2)
# The axis of a loss is that of the first of its tensors found here; {name: axis, and the tensor as a function of x}.
VARIED: dict[str, tuple[Axis, Callable]] = {
    "chosen_logratio": (PAIR, lambda x: 0.25 + x / 2),
    "rejected_logratio": (PAIR, lambda x: 0.25 - x / 2),
    "chosen_average_logp": (Axis("a⁺ - a⁻, nats a token", -4.2, 4.2, 0.3125), lambda x: -2.15625 + x / 2),
    "rejected_average_logp": (Axis("a⁺ - a⁻, nats a token", -4.2, 4.2, 0.3125), lambda x: -2.15625 - x / 2),
    "chosen_logp": (Axis("log π(y⁺|x) - log π(y⁻|x), nats", -40.0, 40.0, 2.0), lambda x: -43.0 + x / 2),
    "rejected_logp": (Axis("log π(y⁺|x) - log π(y⁻|x), nats", -40.0, 40.0, 2.0), lambda x: -43.0 - x / 2),
    "logratio": (Axis("ρ, nats", -60.0, 60.0, 1.0), lambda x: x),
    "sample_logratio": (Axis("ρ of the sample, nats", -10.0, 10.0, 1.0), lambda x: x),
    "sample_logp": (Axis("log π(y|x) of the sample, nats", -30.0, 0.0, -12.0), lambda x: x),
    "logp": (Axis("log π(y|x)/π₀(y|x), nats", -4.0, 4.0, 1.0), lambda x: -12.0 + x),
    "logps": (TOKEN, lambda x: -2.0 + x),
    "chosen_reward": (Axis("r(x, y⁺) - r(x, y⁻)", -6.0, 6.0, 1.0), lambda x: x / 2),
    "rejected_reward": (Axis("r(x, y⁺) - r(x, y⁻)", -6.0, 6.0, 1.0), lambda x: -x / 2),
    "score": (Axis("s(x, y, y') - s(x, y', y)", -12.0, 12.0, 1.0), lambda x: x / 2),
    "swapped_score": (Axis("s(x, y, y') - s(x, y', y)", -12.0, 12.0, 1.0), lambda x: -x / 2),
    "scores": (Axis("first score, the others 0", -6.0, 6.0, 1.0), lambda x: x),
    "values": (Axis("V - G", -2.0, 2.0, 0.5), lambda x: x),
    "logits": (Axis("logit of the first of two", -6.0, 6.0, 1.0), lambda x: x),
    "chosen_logps": (Axis("log π(y⁺|x) - log π(y⁻|x), nats", -40.0, 40.0, 2.0), lambda x: -43.0 + x / 2),
    "rejected_logps": (Axis("log π(y⁺|x) - log π(y⁻|x), nats", -40.0, 40.0, 2.0), lambda x: -43.0 - x / 2),
    "chosen_mean": (Axis("μ⁺ - μ⁻", -6.0, 6.0, 1.0), lambda x: x / 2),
    "rejected_mean": (Axis("μ⁺ - μ⁻", -6.0, 6.0, 1.0), lambda x: -x / 2),
    "logratios": (Axis("log-ratio of a token, nats", -4.0, 4.0, 1.0), lambda x: x),
    "entropies": (Axis("entropy, nats", 0.0, 4.0, 1.0), lambda x: x),
    "degree_logits": (Axis("logit of the right degree, the others 0", -6.0, 6.0, 1.0), lambda x: x),
}
LIKELY = Axis("log π(yₜ|·), nats", -8.0, -0.02, -2.0)
RATIO = Axis("ρ, nats", -4.0, 4.0, 1.0)
RELEVANCE = np.array([2.0, 1.0, 0.0])
RATIONALE = Axis("log π(r|q), nats", -80.0, 0.0, -40.0)
# What stands still. A tensor that takes several values makes a curve of each.
HELD: dict[str, float | tuple[float, ...] | np.ndarray] = {
    "behaviour_logps": -2.0, "reference_logps": -2.0, "reference_logp": -12.0, "chosen_reference_logp": -43.0,
    "rejected_reference_logp": -43.0, "mask": 1.0, "advantages": (1.0, -1.0), "desirable": (1.0, 0.0),
    "labels": (1.0, 0.0), "preference": (1.0, 0.0), "behaviour_values": 0.3, "returns": 0.0, "reference_logits": 0.0,
    "rewards": 1.0, "reward": np.array([1.0, 0.0, -1.0]), "optimal_values": 0.5, "value": 0.0, "selected": 1.0,
    "chosen_win_rate": 0.75, "rejected_win_rate": 0.25, "chosen_mask": 1.0, "rejected_mask": 1.0, "chosen_length": 6.0,
    "rejected_length": 7.0, "target_scores": np.array([2.0, 1.0, 0.0]), "rationale_logp": -40.0, "chosen_kl": 1.0,
    "rationale_average_logp": -2.0, "target_logp": -43.0, "rating": 0.0, "rejected_kl": 2.0, "chosen_variance": 0.5,
    "rejected_variance": 0.5, "degree": 0.0, "label": (2.0, 1.0, 0.0), "thresholds": np.array([-1.0, 0.0, 1.0]),
}  # fmt: skip
SETTINGS = {
    "beta": 0.1, "label_smoothing": 0.1, "kl": 0.0, "shift": 0.0, "gamma": 0.5, "alpha": 0.01, "max_ratio": 5.0,
    "temperature": 0.1, "batch_margin": 2.0, "threshold": 1.0, "offset": 0.2, "penalty": 5.0, "delta": 1.0,
    "coef": 0.01, "flip_probability": 0.1, "bias": 1.0,
}  # fmt: skip
# Where one vocabulary does not serve: `{loss: {argument: value or function of x}}`, and an axis under "axis".
SPECIAL: dict[str, dict[str, Any]] = {
    "nll_loss": {"axis": LIKELY, "logps": lambda x: x},
    "dft_loss": {"axis": LIKELY, "logps": lambda x: x},
    "unlikelihood_loss": {"axis": LIKELY, "logps": lambda x: x},
    "reinforce_loss": {"axis": LIKELY, "logps": lambda x: x},
    "unlikelihood_pair_loss": {
        "axis": VARIED["chosen_average_logp"][0],
        "chosen_logps": VARIED["chosen_average_logp"][1],
        "rejected_logps": VARIED["rejected_average_logp"][1],
    },
    "iterated_dpo_loss": {"chosen_average_logp": -2.0},
    "forward_kl_link": {"axis": RATIO},
    "jensen_shannon_link": {"axis": RATIO},
    "alpha_link": {"axis": RATIO, "alpha": 0.5},
    "reverse_kl_link": {"axis": RATIO},
    "clip_cov_loss": {"selected": 0.0},
    "centring_term": {"axis": Axis("r⁺ = r⁻", -6.0, 6.0, 1.0), "rejected_reward": lambda x: x / 2},
    "all_pairs_loss": {"labels": RELEVANCE},
    "lipo_lambda_loss": {"labels": RELEVANCE},
    "exo_pair_loss": {"label_smoothing": 1e-3},
    "simpo_loss": {"beta": 2.5},
    "xpo_loss": {"sample_logp": -12.0},
    "alphapo_loss": {"beta": 2.5, "alpha": 0.25},
    "beta_dpo_loss": {"alpha": 0.6},
    "length_regularised_dpo_loss": {"alpha": 0.05},
    "slic_loss": {"alpha": 0.1},
    "nca_loss": {"temperature": 1.0},
    "rationale_term": {"axis": RATIONALE, "rationale_logp": lambda x: x, "gamma": 0.1},
    "rationale_sigmoid_term": {"axis": RATIONALE, "rationale_logp": lambda x: x, "gamma": 0.1},
    "rationale_dpo_loss": {"gamma": 0.1},
    "rationale_orpo_loss": {"gamma": 1.0},
    "rating_loss": {"axis": Axis("score less rating", -6.0, 6.0, 1.0), "score": lambda x: x},
    "ordinal_loss": {"axis": Axis("score", -6.0, 6.0, 1.0), "score": lambda x: x},
    "oreo_policy_loss": {"values": 0.5, "returns": 1.0},
    "oreo_value_loss": {"logratios": 0.0, "returns": 1.0},
    "kl_k1": {"axis": Axis("log π(yₜ|·)/π₀(yₜ|·), nats", -2.0, 2.0, 0.2)},
    "kl_k2": {"axis": Axis("log π(yₜ|·)/π₀(yₜ|·), nats", -2.0, 2.0, 0.2)},
    "kl_k3": {"axis": Axis("log π(yₜ|·)/π₀(yₜ|·), nats", -2.0, 2.0, 0.2)},
    "kl_penalty": {"axis": Axis("log π(yₜ|·)/π₀(yₜ|·), π_b = π₀, nats", -2.0, 2.0, 0.2)},
    "process_reward_loss": {"axis": Axis("score", -6.0, 6.0, 1.0)},
    "two_class_process_reward_loss": {"axis": Axis("s₁ - s₀", -6.0, 6.0, 1.0)},
}


class Tensor(NamedTuple):
    """An argument as a function of x [n], and the place on its trailing axes where x stands."""

    at: Callable[[jax.Array], jax.Array]
    place: tuple


class Shown(NamedTuple):
    """A loss with everything but x given.

    Attributes:
      axis: what x is.
      cases: a label for each curve, and its tensors by name.
      settings: hyperparameters, the loss's own defaults among them.
      moving: names of the tensors that depend on x, of which gradients are shown.
    """

    axis: Axis
    cases: list[tuple[str, dict[str, "Tensor"]]]
    settings: dict[str, Any]
    moving: list[str]


def shown(loss: Callable) -> Shown:
    """Raises: InputError for an argument that no vocabulary here has."""
    special, parameters = SPECIAL.get(loss.__name__, {}), inspect.signature(loss).parameters.values()
    tensors = {p.name: p.annotation for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    settings = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name, default in settings.items():
        settings[name] = special.get(
            name, SETTINGS.get(name) if default is inspect.Parameter.empty else default
        )
    unknown = [name for name in tensors if name not in special and name not in VARIED and name not in HELD]
    unknown += [name for name, value in settings.items() if value is None]
    require(
        not unknown, loss.__name__, f"arguments {', '.join(unknown)}", "words of the vocabulary",
        "Say in experiments/loss_curves.py what to show them with.",
    )  # fmt: skip
    given = {name: special.get(name, VARIED[name][1] if name in VARIED else HELD[name]) for name in tensors}
    moving = [name for name, value in given.items() if callable(value)]
    several = next((name for name, value in given.items() if isinstance(value, tuple)), None)
    cases = []
    for one in given[several] if several else (None,):
        case = {**given, several: one} if several else given
        label = f"{several} = {one:g}" if several else ""
        cases.append((label, {n: _tensor(value, trailing_axes(tensors[n])) for n, value in case.items()}))
    return Shown(special.get("axis") or VARIED[moving[0]][0], cases, settings, moving)


def trailing_axes(annotation: Any) -> list[str]:
    """Names of the axes behind the batch in a jaxtyping annotation."""
    return [axis for axis in annotation.dim_str.split() if not axis.startswith("*")]


def _tensor(value: float | np.ndarray | Callable, trailing: list[str]) -> Tensor:
    """A constant everywhere, or x at one place of the trailing axes and 0 at the others."""
    sizes = tuple({"K": 3, "D": 3, "V": 2, "A": 2, "2": 2}.get(axis, 1) for axis in trailing)
    # Of two classes, "wrong" and "right", the second is varied.
    place = (..., *(1 if axis == "2" else 0 for axis in trailing))
    if isinstance(value, np.ndarray):
        return Tensor(lambda x: jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape + value.shape), place)
    if callable(value):
        return Tensor(lambda x: jnp.zeros(x.shape + sizes, x.dtype).at[place].set(value(x)), place)
    return Tensor(lambda x: jnp.full(x.shape + sizes, value, x.dtype), place)


class Curve(NamedTuple):
    """A loss along x, [n], and the gradient in every tensor that moves, where x stands in it."""

    x: np.ndarray
    value: np.ndarray
    gradients: dict[str, np.ndarray]


def curve(loss: Callable, shown: Shown, tensors: Mapping[str, Tensor], x: np.ndarray) -> Curve:
    arguments = {name: tensor.at(jnp.asarray(x, jnp.float32)) for name, tensor in tensors.items()}

    def values(moved):
        return loss(**{**arguments, **moved}, **shown.settings)

    value, back = jax.vjp(values, {name: arguments[name] for name in shown.moving})
    (gradients,) = back(jnp.ones_like(value))
    at_x = {name: np.asarray(gradients[name][tensors[name].place]) for name in shown.moving}
    return Curve(x, np.asarray(value).reshape(len(x), -1).sum(axis=-1), at_x)


@functools.cache
def slope(loss: Callable) -> str:
    """The largest gradient in the range drawn and to a hundred times as far, and whether it grows there."""
    seen = shown(loss)
    low, high = seen.axis.low, seen.axis.high
    out = np.geomspace(1, 100, POINTS)
    # A log-probability ends at 0, so its averages are not followed beyond the range drawn.
    beyond = [] if any("average" in name for name in seen.moving) else [low * out] + [high * out] * (high > 0)

    def steepest(x):
        curves = [curve(loss, seen, tensors, x) for _, tensors in seen.cases]
        return max(float(np.abs(gradient).max()) for one in curves for gradient in one.gradients.values())

    within = steepest(np.linspace(low, high, POINTS))
    far = max((steepest(x) for x in beyond), default=0.0)
    return (
        "without bound"
        if far > 1.5 * within
        else f"at most {max(within, far):.3g}" + " as drawn" * (not beyond)
    )


def flat_parts(loss: Callable, shown: Shown, tensors: Mapping[str, Tensor]) -> str:
    """Where the gradient stays under a hundredth of its largest."""
    x = np.linspace(shown.axis.low, shown.axis.high, POINTS)
    steep = np.max([np.abs(g) for g in curve(loss, shown, tensors, x).gradients.values()], axis=0)
    steep = np.flatnonzero(steep > steep.max() / 100)
    if not len(steep):
        return "everywhere"
    below = f"below {x[steep[0]]:.3g}" if steep[0] > 0 else ""
    above = f"above {x[steep[-1]]:.3g}" if steep[-1] < len(x) - 1 else ""
    return " and ".join(filter(None, [below, above])) or "nowhere in the range drawn"


def worked(loss: Callable, shown: Shown, tensors: Mapping[str, Tensor]) -> str:
    """One call with its result and its gradient, to be checked by hand."""
    x = np.full(POINTS, shown.axis.worked)
    at = curve(loss, shown, tensors, x)
    arguments = [f"{name}={_number(t.at(jnp.asarray(x, jnp.float32))[0])}" for name, t in tensors.items()]
    arguments += [f"{name}={value:g}" for name, value in shown.settings.items()]
    gradient = ", ".join(f"{float(g[0]):.6g} in {name}" for name, g in at.gradients.items())
    return f"`{loss.__name__}({', '.join(arguments)})` is **{at.value[0]:.6g}**; its gradient {gradient}."


def _number(array: jax.Array) -> str:
    flat = [f"{float(value):g}" for value in np.asarray(array).reshape(-1)]
    return flat[0] if array.ndim == 0 else f"[{', '.join(flat)}]"
