"""One algorithm, from a model directory and a data file to a workdir. `run(config)` is what --algorithm does."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export import Outcome, check_workdir, export, opened_workdir, wait_for_all
from experiments.inputs import Input, read_input, row_batches
from experiments.problems import KINDS, Problem, check_start, make_problem
from experiments.selection import run_best_of_n
from experiments.settings import (
    LEARNING_RATES,
    Config,
    check_settings,
    default_workdir,
    digest_of_model,
    identity,
)
from prefjax.checks import require
from prefjax.data import TokenRows, tokenizer_fingerprint
from prefjax.train import (
    Checkpoints,
    Metrics,
    TrainState,
    Validation,
    abstract_state,
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
)
from prefjax.types import mean_of

EPOCHS = 3


def run(config: Config) -> Outcome:
    """Runs, resumes, or finds finished, one algorithm."""
    config = with_defaults(config)
    source = read_input(config)
    config = replace(
        config, steps=config.steps or EPOCHS * -(-len(source.rows.lines) // (config.batch_size or 1))
    )
    if config.plan:
        return Outcome(Path(), Path(), plan(config, source))

    who = identity(
        config,
        models={name: digest_of_model(getattr(config, name)) for name in ("model", "reference", "judge")},
        tokenizer=tokenizer_fingerprint(source.tokenizer),
        data={**source.records.identity._asdict(), **source.rows.counts},
    )
    workdir = Path(config.workdir) if config.workdir else default_workdir(config, who)
    check_workdir(workdir, config)
    if config.algorithm == "best_of_n":
        return Outcome(workdir, *run_best_of_n(config, workdir, source, who))
    problem = problem_of(
        config, source
    )  # before anything is written: a model that cannot be read leaves no trace
    with opened_workdir(workdir, config, who):
        outcome = train(config, workdir, source, problem, who)
        wait_for_all("exported")
    return outcome


def train(config: Config, workdir: Path, source: Input, problem: Problem, who: dict) -> Outcome:
    """State on a mesh, `fit`, and what came of it written down."""
    mesh = make_mesh(**parse_mesh(config.mesh))
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    optimizer, schedule = optimizer_of(config)
    placed = spread(state_shapes(config, problem, optimizer), mesh)
    born = jax.jit(init_state, static_argnums=1, out_shardings=placed)
    state = born(on_mesh(problem.params, placed.params), optimizer, jax.random.key(config.seed))
    frozen = on_mesh(problem.frozen, spread(problem.frozen, mesh))
    step = make_step(problem.objective, optimizer, placed, mesh)
    extend = jax.jit(problem.extend)

    def prepare(state: TrainState | None, batch: dict) -> dict:
        return extend(frozen, state, place(batch, mesh, microbatches))

    measure = None
    if source.held_out is not None and config.algorithm != "nash_md":
        measured = make_measure(problem.objective, placed.params, mesh)
        measure = over_held_out(
            config, source.held_out, lambda p, b: measured(p, prepare(None, b), jax.random.key(0))
        )
    before = measure(state.params) if measure else {}

    data = row_batches(config, source.rows)
    checkpoints = Checkpoints(workdir / "checkpoints", identity=who)
    best = Checkpoints(workdir / "best", identity=who) if config.patience else None
    metrics = Metrics(workdir)
    validation = None
    if measure and config.eval_every:
        validation = Validation(measure, config.eval_every, config.patience, best)
    lines = source.rows.lines
    try:
        fitted = fit(
            state, step, data, steps=config.steps or 0, prepare=prepare, checkpoints=checkpoints, metrics=metrics,
            placed=placed, save_every=config.save_every, schedule=schedule,
            validation=validation,
            expect_first=check_start(problem.at_start, config),
            name_rows=lambda index: f"{config.data}, lines " + ", ".join(str(lines[i]) for i in index if i >= 0),
            title=config.algorithm or "",
        )  # fmt: skip
    finally:
        data.close()
        metrics.close()
        for each in (checkpoints, best):
            if each is not None:
                each.close()
    after = measure(fitted.state.params) if measure else {}
    return export(config, workdir, problem, fitted, source.rows, before, after)


def with_defaults(config: Config) -> Config:
    """Fills in what the algorithm decides, and refuses what it cannot do without."""
    check_settings(config)
    algorithm = config.algorithm or "sft"
    require(
        bool(config.model), "--model", "nothing", "a Hugging Face directory", "Name the model to start from."
    )
    require(bool(config.data), "--data", "nothing", f"JSON Lines ({KINDS[algorithm].needs})", "Name a file.")
    if algorithm in ("nash_md", "best_of_n"):
        require(
            bool(config.judge), "--judge", "nothing", "a directory with a reward or preference model",
            "Train one with --algorithm preference or reward, and name its policy/ directory.",
        )  # fmt: skip
    require(
        not config.patience or bool(config.eval_data and config.eval_every), "--patience", f"{config.patience}",
        "--eval-data and --eval-every beside it", "Early stopping looks at held-out loss.",
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


def problem_of(config: Config, source: Input) -> Problem:
    longest = max(rows.longest_completion() for rows in (source.rows, source.held_out) if rows is not None)
    return make_problem(config, longest=longest, stop_tokens=(source.tokenizer.eos_token_id,))


def optimizer_of(config: Config):
    schedule = make_schedule(
        config.learning_rate or 0.0,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        steps=config.steps or 0,
    )
    return make_optimizer(schedule, weight_decay=config.weight_decay, clip_norm=config.clip_norm), schedule


def state_shapes(config: Config, problem: Problem, optimizer) -> TrainState:
    return jax.eval_shape(lambda p: init_state(p, optimizer, jax.random.key(config.seed)), problem.params)


def over_held_out(config: Config, held_out: TokenRows, measured: Callable) -> Callable:
    """`params -> means` over every row of --eval-data: sums of all batches, then one division."""

    def measure(params) -> dict[str, float]:
        data = row_batches(config, held_out, shuffle=False)
        # One batch at a time: programs queued without end would hold as much memory as there are batches.
        sums = [jax.device_get(measured(params, next(data))) for _ in range(data.steps_per_epoch)]
        data.close()
        return {name: float(value) for name, value in mean_of(jax.tree.map(lambda *s: sum(s), *sums)).items()}

    return measure


def on_mesh(params: Any, placed: Any) -> Any:
    """Parameters that every process has read, each device with its part."""

    def put(leaf, sharding):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, params, placed)


def plan(config: Config, source: Input) -> dict:
    """`--plan`: the very step that the command would run, compiled for its mesh of a named chip, and not run."""
    axes = parse_mesh(config.mesh or "data=1")
    count = devices_in(axes)
    mesh = make_mesh(**axes, devices=devices_of(config.chip, count))
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    problem = problem_of(config, source)
    optimizer, _ = optimizer_of(config)
    shapes = state_shapes(config, problem, optimizer)
    placed = spread(shapes, mesh)

    def shaped(leaf):
        leaf = np.asarray(leaf)
        shape = (microbatches, leaf.shape[0] // microbatches, *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    data = row_batches(config, source.rows)
    rows = jax.tree.map(shaped, next(data))
    data.close()
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split_over(mesh)),
        jax.eval_shape(problem.extend, problem.frozen, shapes, rows),
    )
    state = abstract_state(shapes, placed)
    planned = make_plan(
        make_step(problem.objective, optimizer, placed, mesh), state, batch, chip=config.chip, devices=count,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(problem.params)),
        frozen=sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(problem.frozen)),
    )  # fmt: skip
    print(describe_plan(planned))
    return planned._asdict()
