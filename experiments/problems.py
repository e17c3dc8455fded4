"""What distinguishes one algorithm from another: an objective, and what its batches need beside their rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.loading import Model, load_reference, load_trained
from experiments.settings import Config, settings_of
from prefjax.align import (
    PAIRED_LOSSES,
    UNPAIRED_LOSSES,
    add_mean_length,
    add_mean_reward,
    add_mismatched_kl,
    add_packed_mean_length,
    add_packed_reference,
    add_pair_statistics,
    add_ranked_reference,
    add_reference,
    add_unpaired_reference,
    loss_at_start,
    packed_paired_objective,
    packed_sft_objective,
    paired_objective,
    pairs_at_once,
    preference_objective,
    process_objective,
    ranked_objective,
    reward_objective,
    sft_objective,
    unpaired_objective,
)
from prefjax.checks import refuse
from prefjax.data import (
    LANGUAGE_MODELING,
    PREFERENCE,
    PROMPT_COMPLETION,
    PROMPT_ONLY,
    RANKED,
    STEPWISE,
    UNPAIRED,
    Kind,
)
from prefjax.losses import alpha_link, forward_kl_link, jensen_shannon_link
from prefjax.types import Weighted

KINDS: dict[str, tuple[Kind, ...]] = {
    "sft": (PROMPT_COMPLETION, LANGUAGE_MODELING), "dpo": (PREFERENCE,), "reward": (PREFERENCE,),
    "preference": (PREFERENCE,), "kto": (UNPAIRED,), "ranked": (RANKED,), "process": (STEPWISE,),
}  # fmt: skip
LINKS = {"reverse_kl": None, "forward_kl": forward_kl_link, "js": jensen_shannon_link}
BILINEAR_SCORES = 8  # two for Bradley–Terry, the others for what is not transitive


def kinds_of(algorithm: str) -> tuple[Kind, ...]:
    """The kinds of rows that an algorithm learns from; where there are several, a file may have any one."""
    return KINDS.get(algorithm, (PROMPT_ONLY,))


def as_it_is(frozen: Any, params: Any, key: Any, batch: dict) -> dict:
    return batch


class Problem(NamedTuple):
    """One algorithm, for a loop that knows none of them.

    A batch of rows becomes what the objective asks for by `extend`, then, where rewards are programmed, by functions
    on the host, then by `finish`; both are `frozen, params, key, batch -> batch` and compiled.
    """

    model: Model
    objective: Callable
    frozen: Any = ()  # parameters that are read and never trained: a reference, a judge
    extend: Callable = as_it_is
    scored: bool = False  # whether rewards come from functions, between `extend` and `finish`
    finish: Callable = as_it_is
    arrange: Callable | None = None  # `batch, key -> batch` of several updates, [U, M, B, ...]
    updates: int = 1
    at_start: dict[str, float] = {}  # noqa: RUF012  what step 1 must show; a NamedTuple's default is never changed
    judge: str = ""  # what comes out, if not a policy: a reward model, or a preference model of some form


class Shape(NamedTuple):
    """What the data says of a program's arrays."""

    longest: int  # tokens of the longest completion
    targets: int = 0  # of packed rows: learned tokens of the fullest one


def offline_problem(config: Config, mesh: Mesh, shape: Shape) -> Problem:
    """Learning from rows alone."""
    algorithm, longest = config.algorithm, shape.longest
    if algorithm == "sft":
        model = load_trained(config, mesh)
        if config.packing:
            return Problem(model, packed_sft_objective(model.policy, max_targets=shape.targets))
        return Problem(model, sft_objective(model.policy, max_completion=longest))
    if algorithm == "reward":
        model = load_trained(config, mesh, num_scores=1)
        return Problem(model, reward_objective(model.policy), judge="reward")
    if algorithm == "preference":
        # A bilinear head that starts at 0 has gradient 0; a joint one may, and then every preference is 1/2.
        bilinear = config.preference_form == "bilinear"
        head_key = jax.random.key(config.seed) if bilinear else None
        model = load_trained(config, mesh, num_scores=BILINEAR_SCORES if bilinear else 1, score_key=head_key)
        objective = preference_objective(model.policy, form=config.preference_form, max_completion=longest)
        return Problem(model, objective, judge=config.preference_form)
    if algorithm == "process":
        model = load_trained(config, mesh, num_scores=2)
        return Problem(model, process_objective(model.policy), judge="process")
    if algorithm == "ranked":
        return ranked_problem(config, mesh, shape)
    if algorithm == "dpo":
        return pairs_problem(config, mesh, shape)
    if algorithm == "kto":
        return unpaired_problem(config, mesh, shape)
    refuse("--algorithm", repr(algorithm), "one that learns from rows", "See --help.")


def pairs_problem(config: Config, mesh: Mesh, shape: Shape) -> Problem:
    model = load_trained(config, mesh)
    paired = PAIRED_LOSSES[config.which_loss]
    settings: dict[str, Any] = settings_of(config)
    paired = paired._replace(likelihood=settings.pop("likelihood", paired.likelihood))
    numbers: dict[str, Any] = {"beta": config.price, "label_smoothing": config.label_smoothing, **settings}
    link = (
        partial(alpha_link, alpha=config.f_alpha)
        if config.f_divergence == "alpha"
        else LINKS[config.f_divergence]
    )

    def add_statistics(params, batch):
        return batch

    if config.packing:
        add = add_packed_reference(model.policy, max_targets=shape.targets)
        objective = packed_paired_objective(
            model.policy, paired, max_targets=shape.targets, link=link, **numbers
        )
    else:
        whole: dict[str, Any] = {"max_completion": shape.longest, "ld_alpha": config.ld_alpha}
        add = add_reference(model.policy, paired=paired, **whole)
        add_statistics = add_pair_statistics(model.policy, paired, beta=config.price, **whole, **settings)
        rows, at_once = config.micro_batch_size or 1, None
        if mesh.size == 1:
            at_once = pairs_at_once(
                rows, max_completion=shape.longest, vocab_size=model.policy.config.vocab_size
            )
        objective = paired_objective(
            model.policy,
            paired,
            at_once=at_once,
            link=link,
            use_weighting=config.use_weighting,
            **whole,
            **numbers,
        )

    def extend(frozen, params, key, batch):
        if paired.likelihood:
            batch = (add_packed_mean_length if config.packing else add_mean_length)(batch)
        if paired.reference:
            batch = add(frozen["reference"], batch)
        return add_statistics(params, batch)

    if not paired.reference:
        return Problem(model, objective, extend=extend)
    start = {}
    if config.reference == config.model:
        start = {"rewards/margins": 0.0}
        if paired.known_at_start and not config.use_weighting:
            start["loss"] = loss_at_start(paired, **numbers)
    frozen = {"reference": load_reference(config, mesh, model)}
    return Problem(model, objective, frozen, extend, at_start=start)


def ranked_problem(config: Config, mesh: Mesh, shape: Shape) -> Problem:
    model = load_trained(config, mesh)
    add = add_ranked_reference(model.policy, max_completion=shape.longest)
    return Problem(
        model, ranked_objective(model.policy, beta=config.price, max_completion=shape.longest),
        frozen={"reference": load_reference(config, mesh, model)},
        extend=lambda frozen, params, key, batch: add(frozen["reference"], batch),
        at_start={"rewards/margins": 0.0} if config.reference == config.model else {},
    )  # fmt: skip


def unpaired_problem(config: Config, mesh: Mesh, shape: Shape) -> Problem:
    model, longest = load_trained(config, mesh), shape.longest
    unpaired = UNPAIRED_LOSSES[config.which_loss]
    add = add_unpaired_reference(model.policy, max_completion=longest)
    add_kl = add_mismatched_kl(model.policy, max_completion=longest)
    add_shift = add_mean_reward(model.policy, beta=config.price, max_completion=longest)

    def extend(frozen, params, key, batch):
        batch = add(frozen["reference"], batch)
        if unpaired.statistic == "kl":
            return add_kl(params, frozen["reference"], batch)
        if unpaired.statistic == "shift":
            # Of this step alone: what is carried from step to step would have to be part of the state.
            return add_shift(params, batch, Weighted(jnp.zeros(()), jnp.zeros(())))[0]
        return batch

    objective = unpaired_objective(model.policy, unpaired, beta=config.price, max_completion=longest)
    frozen = {"reference": load_reference(config, mesh, model)}
    start = {"rewards/margins": 0.0} if config.reference == config.model else {}
    return Problem(model, objective, frozen, extend, at_start=start)


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
