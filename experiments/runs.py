"""One algorithm, from a model directory and a data file to a workdir. `run(config)` is what --algorithm does."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.export import Outcome, check_workdir, export, opened_workdir, wait_for_all
from experiments.inputs import Input, Rows, read_input, row_batches, shape_of
from experiments.problems import Problem, as_it_is, check_start, kinds_of, offline_problem
from experiments.rewarding import Scorer, make_scorer
from experiments.rollouts import rollout_problem
from experiments.selection import run_best_of_n
from experiments.settings import (
    LEARNING_RATES,
    ROLLOUTS,
    Config,
    check_settings,
    default_workdir,
    digest_of_model,
    identity,
)
from prefjax.checks import require
from prefjax.data import tokenizer_fingerprint
from prefjax.policy import PARTITION
from prefjax.train import (
    Checkpoints,
    Metrics,
    TrainState,
    Validation,
    abstract_state,
    averaged_params,
    check_division,
    describe_plan,
    devices_in,
    devices_of,
    fit,
    init_state,
    make_measure,
    make_mesh,
    make_optimizer,
    make_plan,
    make_schedule,
    make_step,
    parse_mesh,
    place,
    split_over,
    spread,
    step_key,
    trackers_of,
    warmed_up,
    with_average,
)
from prefjax.types import mean_of

EPOCHS = 3


def run(config: Config) -> Outcome:
    """Runs, resumes, or finds finished, one algorithm."""
    config = with_defaults(config)
    source = read_input(config)
    if config.steps is None:
        data = row_batches(config, source.rows)
        config = replace(config, steps=EPOCHS * data.steps_per_epoch)
        data.close()
    if config.plan:
        return Outcome(Path(), Path(), plan(config, source))

    scorer = make_scorer(config, source) if config.reward_funcs else None
    who = identity(
        config,
        models={name: digest_of_model(getattr(config, name)) for name in ("model", "reference", "judge")},
        tokenizer=tokenizer_fingerprint(source.tokenizer, template=source.rows.conversational),
        data=source.rows.identity(),
        **({"reward_funcs": scorer.identity} if scorer else {}),
    )
    workdir = Path(config.workdir) if config.workdir else default_workdir(config, who)
    check_workdir(workdir, config)
    if config.algorithm == "best_of_n":
        return Outcome(workdir, *run_best_of_n(config, workdir, source, who, scorer))
    mesh = make_mesh(**parse_mesh(config.mesh))
    # Before anything is written: a model that cannot be read leaves no trace.
    problem = problem_of(config, source, mesh)
    with opened_workdir(workdir, config, who):
        outcome = train(config, workdir, source, mesh, problem, scorer, who)
        wait_for_all("exported")
    return outcome


def train(
    config: Config,
    workdir: Path,
    source: Input,
    mesh: Mesh,
    problem: Problem,
    scorer: Scorer | None,
    who: dict,
) -> Outcome:
    """State on a mesh, `fit`, and what came of it written down."""
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    optimizer, schedule = optimizer_of(config)
    placed = spread(state_shapes(config, problem, optimizer), mesh, PARTITION)
    born = jax.jit(init_state, static_argnums=1, out_shardings=placed)
    state = born(problem.model.trained, optimizer, jax.random.key(config.seed))
    model, frozen = problem.model, problem.frozen
    fixed = (model.fixed,) if model.fixed else ()
    join = join_of(problem)
    compiled = make_step(problem.objective, optimizer, placed, mesh, join=join, updates=problem.updates)

    def step(state: TrainState, batch: dict):
        return compiled(state, batch, *fixed)

    def on_whole(function: Callable) -> Callable:
        def of_parts(frozen, trained, fixed, key, batch):
            return function(frozen, join(trained, *fixed) if join else trained, key, batch)

        # Rows stay where they are: functions on the host score those that their process holds.
        return jax.jit(of_parts, out_shardings=split_over(mesh))

    extend, finish = on_whole(problem.extend), on_whole(problem.finish)
    arrange = (
        jax.jit(problem.arrange, out_shardings=split_over(mesh, problem.updates)) if problem.arrange else None
    )

    def completed(params: Any, key: Any, batch: dict, rows: Rows, number: int | None) -> dict:
        batch = place(batch, mesh, microbatches)
        if problem.extend is not as_it_is:
            batch = extend(frozen, params, fixed, key, batch)
        if problem.scored and scorer is not None:
            batch = scorer.score(batch, rows, number)
            batch = finish(frozen, params, fixed, key, batch)
        return batch

    def prepare(state: TrainState, batch: dict) -> dict:
        key = step_key(state)
        batch = completed(state.params, key, batch, source.rows, int(state.step) if problem.scored else None)
        return arrange(batch, key) if arrange else batch

    measure = None
    held_out = source.held_out
    if held_out is not None:
        measured = make_measure(problem.objective, placed.params, mesh, join=join)
        key = jax.random.key(0)
        measure = over_held_out(
            config, held_out, lambda p, b: measured(p, completed(p, key, b, held_out, None), key, *fixed)
        )
    before = measure(state.params) if measure else {}

    data = row_batches(config, source.rows)
    checkpoints = Checkpoints(workdir / "checkpoints", identity=who)
    best = Checkpoints(workdir / "best", identity=who) if config.patience else None
    metrics: Any = Metrics(workdir, trackers=trackers(config, workdir))
    validation = None
    if measure and config.eval_every:
        validation = Validation(measure, config.eval_every, config.patience, best)
    if scorer is not None:
        metrics = scorer.beside(metrics)
    try:
        fitted = fit(
            state, step, data, steps=config.steps or 0, prepare=prepare, checkpoints=checkpoints, metrics=metrics,
            placed=placed, save_every=config.save_every, schedule=schedule,
            validation=validation,
            expect_first=check_start(problem.at_start, config) if problem.updates == 1 else None,
            name_rows=lambda index: names_of(source.rows, index),
            title=config.algorithm or "",
        )  # fmt: skip
    finally:
        data.close()
        metrics.close()
        for each in (checkpoints, best):
            if each is not None:
                each.close()
    if config.ema_decay:
        fitted = fitted._replace(state=fitted.state._replace(params=averaged_params(fitted.state.opt_state)))
    after = measure(fitted.state.params) if measure else {}
    return export(config, workdir, problem, fitted, source.rows.tokens, before, after)


def join_of(problem: Problem) -> Callable | None:
    model = problem.model
    return (lambda trained, fixed: model._replace(fixed=fixed).joined(trained)) if model.fixed else None


def names_of(rows: Rows, index: Any) -> str:
    """Which rows of which files a batch held."""
    places = [rows.tokens.where(i) for i in np.unique(np.asarray(index)).tolist() if i >= 0]
    source = rows.tokens.source
    if all(place.startswith(f"{source}, line ") for place in places):
        return f"{source}, lines " + ", ".join(place.removeprefix(f"{source}, line ") for place in places)
    return "; ".join(places)


def trackers(config: Config, workdir: Path) -> tuple:
    if config.report_to == "none":
        return ()
    return trackers_of(
        config.report_to, project=config.project, name=config.run_name or workdir.name, config=vars(config)
    )


def with_defaults(config: Config) -> Config:
    """Fills in what the algorithm decides, and refuses what it cannot do without."""
    check_settings(config)
    algorithm = config.algorithm or "sft"
    require(
        bool(config.model), "--model", "nothing", "a Hugging Face directory", "Name the model to start from."
    )
    require(
        bool(config.data),
        "--data",
        "nothing",
        f"a file of rows ({kinds_of(algorithm)[0].needs})",
        "Name a file.",
    )
    if algorithm == "nash_md":
        require(
            bool(config.judge) and not config.reward_funcs, "--judge", config.reward_funcs or "nothing",
            "a directory with a reward or preference model",
            "Train one with --algorithm preference or reward, and name its policy/ directory.",
        )  # fmt: skip
    elif algorithm in (*ROLLOUTS, "best_of_n"):
        require(
            bool(config.judge or config.reward_funcs), "--judge, --reward-funcs", "neither", "one source of rewards",
            "Name a judge's directory, or functions as file.py:name.",
        )  # fmt: skip
    require(
        not config.patience or bool(config.eval_data and config.eval_every and algorithm not in ROLLOUTS),
        "--patience", f"{config.patience}", "--eval-data and --eval-every beside it, and no algorithm that draws",
        "Early stopping looks at held-out loss, which of drawn completions says nothing.",
    )  # fmt: skip
    batch_size = config.batch_size or 8
    return replace(
        config,
        reference=config.reference or config.model,
        batch_size=batch_size,
        micro_batch_size=config.micro_batch_size or batch_size,
        learning_rate=config.learning_rate or LEARNING_RATES[algorithm],
        overlong=config.overlong or ("skip" if algorithm == "reward" else "truncate"),
    )


def problem_of(config: Config, source: Input, mesh: Mesh) -> Problem:
    if config.algorithm in ROLLOUTS:
        return rollout_problem(config, mesh, source.stop_tokens)
    return offline_problem(config, mesh, shape_of(source, config))


def optimizer_of(config: Config):
    schedule = make_schedule(
        config.learning_rate or 0.0,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        steps=config.steps or 0,
    )
    optimizer = make_optimizer(schedule, weight_decay=config.weight_decay, clip_norm=config.clip_norm)
    return with_average(optimizer, warmed_up(config.ema_decay) if config.ema_decay else 0.0), schedule


def state_shapes(config: Config, problem: Problem, optimizer) -> TrainState:
    trained = problem.model.trained
    return jax.eval_shape(lambda p: init_state(p, optimizer, jax.random.key(config.seed)), trained)


def over_held_out(config: Config, held_out: Rows, measured: Callable) -> Callable:
    """`params -> means` over every row of --eval-data: sums of all batches, then one division."""

    def measure(params) -> dict[str, float]:
        data = row_batches(config, held_out, shuffle=False)
        # One batch at a time: programs queued without end would hold as much memory as there are batches.
        sums = [jax.device_get(measured(params, next(data))) for _ in range(data.steps_per_epoch)]
        data.close()
        return {name: float(value) for name, value in mean_of(jax.tree.map(lambda *s: sum(s), *sums)).items()}

    return measure


def plan(config: Config, source: Input) -> dict:
    """`--plan`: the very step that the command would run, compiled for its mesh of a named chip, and not run."""
    axes = parse_mesh(config.mesh or "data=1")
    count = devices_in(axes)
    mesh = make_mesh(**axes, devices=devices_of(config.chip, count))
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    problem = problem_of(config, source, mesh)
    optimizer, _ = optimizer_of(config)
    shapes = state_shapes(config, problem, optimizer)
    placed = spread(shapes, mesh, PARTITION)
    model, join = problem.model, join_of(problem)

    def shaped(leaf):
        leaf = np.asarray(leaf)
        shape = (microbatches, leaf.shape[0] // microbatches, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    def completed(frozen, state: TrainState, fixed, batch):
        params, key = model._replace(fixed=fixed).joined(state.params), step_key(state)
        batch = problem.extend(frozen, params, key, batch)
        if problem.scored:
            batch = problem.finish(frozen, params, key, {**batch, "reward": jnp.zeros(batch["weight"].shape)})
        return problem.arrange(batch, key) if problem.arrange else batch

    data = row_batches(config, source.rows)
    rows = jax.tree.map(shaped, next(data))
    data.close()
    split = split_over(mesh, problem.updates)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split),
        jax.eval_shape(completed, problem.frozen, shapes, model.fixed, rows),
    )
    fixed = (abstract_state(model.fixed, spread(model.fixed, mesh, PARTITION)),) if model.fixed else ()

    def size(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    planned = make_plan(
        make_step(problem.objective, optimizer, placed, mesh, join=join, updates=problem.updates),
        abstract_state(shapes, placed), batch, *fixed, chip=config.chip, devices=count,
        parameters=size((model.trained, model.fixed)),
        frozen=sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(problem.frozen)),
    )  # fmt: skip
    print(describe_plan(planned))
    if problem.extend is not as_it_is:
        drawing = "drawing completions, their rewards, " if config.algorithm in ROLLOUTS else ""
        print(f"not in it             {drawing}log-probabilities of the reference")
    if model.fixed:
        print(f"of the parameters     {size(model.trained):,} are trained")
    return planned._asdict()
