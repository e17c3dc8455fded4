"""What distinguishes one algorithm from another: an objective, and what its batches need beside their rows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.settings import Config
from prefjax.align import (
    PAIRED_LOSSES,
    add_reference,
    loss_at_start,
    nash_md_objective,
    nash_md_rollout,
    paired_objective,
    preference_judge,
    preference_objective,
    reward_judge,
    reward_objective,
    sft_objective,
)
from prefjax.checks import refuse, require
from prefjax.data import PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY
from prefjax.policy import DecoderConfig, Policy, abstract, load_huggingface, read_config
from prefjax.train import TrainState, step_key

KINDS = {
    "sft": PROMPT_COMPLETION, "dpo": PREFERENCE, "reward": PREFERENCE, "preference": PREFERENCE,
    "nash_md": PROMPT_ONLY, "best_of_n": PROMPT_ONLY,
}  # fmt: skip
BILINEAR_SCORES = 8  # two for Bradley–Terry, the others for what is not transitive


class Problem(NamedTuple):
    """One algorithm, for a loop that knows none of them."""

    policy: Policy
    params: Any
    objective: Callable
    frozen: Any = ()  # parameters that are read and never trained: a reference, a judge
    extend: Callable = lambda frozen, state, batch: batch  # adds to the rows what the objective asks for
    at_start: dict[str, float] = {}  # noqa: RUF012  what step 1 must show; a NamedTuple's default is never changed
    judge: str = ""  # what comes out, if not a policy: a reward model, or a preference model of some form


def make_problem(config: Config, *, longest: int, stop_tokens: tuple[int, ...]) -> Problem:
    """Loads what the algorithm needs and joins it to its objective.

    Args:
      longest: tokens of the longest completion in the data.
      stop_tokens: what ends a sampled completion.
    """
    algorithm = config.algorithm
    if algorithm == "sft":
        policy, params = load(config, config.model)
        return Problem(policy, params, sft_objective(policy, max_completion=longest))
    if algorithm == "reward":
        policy, params = load(config, config.model, num_scores=1)
        return Problem(policy, params, reward_objective(policy), judge="reward")
    if algorithm == "preference":
        # A bilinear head that starts at 0 has gradient 0; a joint one may, and then every preference is 1/2.
        bilinear = config.preference_form == "bilinear"
        head_key = jax.random.key(config.seed) if bilinear else None
        policy, params = load(
            config, config.model, num_scores=BILINEAR_SCORES if bilinear else 1, score_key=head_key
        )
        objective = preference_objective(policy, form=config.preference_form, max_completion=longest)
        return Problem(policy, params, objective, judge=config.preference_form)

    policy, params = load(config, config.model)
    reference = load_reference(config, policy)
    from_start = config.reference == config.model
    if algorithm == "dpo":
        paired = PAIRED_LOSSES[config.loss]
        add = add_reference(policy, max_completion=longest)
        objective = paired_objective(
            policy, paired, beta=config.price, label_smoothing=config.label_smoothing, max_completion=longest
        )
        first = loss_at_start(paired, beta=config.price, label_smoothing=config.label_smoothing)
        return Problem(
            policy, params, objective, frozen=reference, extend=lambda frozen, state, batch: add(frozen, batch),
            at_start={"rewards/margins": 0.0, "loss": first} if from_start else {},
        )  # fmt: skip

    judge, judge_params = load_judge(config)
    rollout = nash_md_rollout(
        policy, judge, max_new_tokens=config.max_new_tokens, stop_tokens=stop_tokens,
        mixture_coef=config.mixture_coef, temperature=config.temperature,
    )  # fmt: skip

    def extend(frozen, state: TrainState, batch: dict) -> dict:
        return rollout(state.params, frozen["reference"], frozen["judge"], batch, step_key(state))

    # At another temperature than 1 the sampler's distribution is not the policy's, and no ratio is promised.
    on_policy = {"ratio": 1.0} if config.temperature == 1.0 else {}
    return Problem(
        policy, params, nash_md_objective(policy, beta=config.price, max_new_tokens=config.max_new_tokens),
        frozen={"reference": reference, "judge": judge_params}, extend=extend,
        at_start={**on_policy, **({"kl": 0.0} if from_start else {})},
    )  # fmt: skip


def load(config: Config, directory: str, **head: Any) -> tuple[Policy, Any]:
    """A policy and its parameters; their shapes only, where a plan is asked for."""
    if config.plan:
        return abstract(read_config(directory, dtype=config.dtype, num_scores=head.get("num_scores")))
    return load_huggingface(directory, dtype=config.dtype, **head)


def load_reference(config: Config, policy: Policy) -> Any:
    """π₀, in arrays of its own: a training step consumes the parameters that it is given."""
    other, params = load(config, config.reference)
    # Which only a new model reads.
    theirs = replace(other.config, initializer_range=policy.config.initializer_range)
    require(
        theirs == policy.config, "--reference",
        f"{config.reference} has another architecture ({_differences(policy.config, theirs)})", "that of --model",
        "Take the model that training started from.",
    )  # fmt: skip
    return params


def load_judge(config: Config) -> tuple[Callable, Any]:
    """A judge by what its judge.json says it is; without one, a reward model, as TRL's RewardTrainer saves it."""
    policy, params = load(config, config.judge)
    require(
        policy.config.num_scores > 0, "--judge", f"{config.judge} is a language model", "a model with a score head",
        "Train one with --algorithm preference or reward.",
    )  # fmt: skip
    about = Path(config.judge) / "judge.json"
    try:
        kind: Any = json.loads(about.read_text())["judge"] if about.exists() else "reward"
    except (ValueError, KeyError, TypeError):
        kind = "not to be read"
    if kind == "reward":
        return reward_judge(policy), params
    if kind not in ("bilinear", "joint"):
        refuse(
            f"{about}",
            f"the kind of judge is {kind}",
            "reward, bilinear or joint",
            "Use the directory as it was exported.",
        )
    return preference_judge(policy, form=kind, max_completion=config.max_new_tokens), params


def check_start(expected: dict[str, float], config: Config) -> Callable | None:
    """Where policy = reference, step 1 is known; anything else means that something is broken."""
    if not expected:
        return None
    tolerance = 1e-3 if config.dtype == "float32" else 5e-2

    def check(measured) -> None:
        for name, value in expected.items():
            if abs(measured[name] - value) > tolerance * max(1.0, abs(value)):
                refuse(
                    f"{config.algorithm}, step 1", f"{name} is {measured[name]:.6g}",
                    f"{value:.6g} where policy = reference",
                    "Log-probabilities differ between the policy and the reference it was copied from; "
                    "do not trust this run.",
                )  # fmt: skip

    return check


def _differences(ours: DecoderConfig, theirs: DecoderConfig) -> str:
    pairs = {name: (value, vars(theirs)[name]) for name, value in vars(ours).items()}
    return ", ".join(f"{name} {b}, not {a}" for name, (a, b) in pairs.items() if a != b)
