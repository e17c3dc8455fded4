"""One algorithm, from a model directory and a data file to a workdir. `run(config)` is what --algorithm does."""

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.figures import draw_curves
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
from prefjax.data import (
    Batches,
    Identity,
    TokenRows,
    batches,
    load_tokenizer,
    prepare_jsonl,
    tokenise,
    tokenizer_fingerprint,
)
from prefjax.policy import save_huggingface
from prefjax.train import (
    Checkpoints,
    Fitted,
    Metrics,
    TrainState,
    Validation,
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
    markdown_table,
    parse_mesh,
    place,
    read_metrics,
    split_over,
    spread,
    write_json,
    write_report,
)
from prefjax.types import mean_of

EPOCHS = 3


class Outcome(NamedTuple):
    workdir: Path
    policy: Path  # a Hugging Face directory; for best_of_n the completions that it kept
    summary: dict


class Input(NamedTuple):
    """What a run reads, tokenised."""

    tokenizer: Any
    rows: TokenRows
    held_out: TokenRows | None
    identity: Identity  # of the file


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
        data={**source.identity._asdict(), **source.rows.counts},
    )
    workdir = Path(config.workdir) if config.workdir else default_workdir(config, who)
    open_workdir(workdir, config, who)
    if config.algorithm == "best_of_n":
        return Outcome(workdir, *run_best_of_n(config, workdir, source.rows, source.tokenizer))
    outcome = train(config, workdir, source, who)
    wait_for_all("exported")
    return outcome


def train(config: Config, workdir: Path, source: Input, who: dict) -> Outcome:
    """State on a mesh, `fit`, and what came of it written down."""
    mesh = make_mesh(**parse_mesh(config.mesh))
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    problem = problem_of(config, source)
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


def read_input(config: Config) -> Input:
    """Prepared rows and their tokens; what was left out is said."""
    tokenizer = load_tokenizer(config.model)
    kind = KINDS[config.algorithm or ""]

    def read(path: str) -> tuple[TokenRows, Identity]:
        records = prepare_jsonl(path, kind, bad=config.bad_rows)
        rows = tokenise(records, tokenizer, max_length=config.max_length, overlong=config.overlong or "truncate")
        left_out = {
            **records.skipped,
            **{k: n for k, n in rows.counts.items() if k not in ("rows", "kept") and n},
        }
        if left_out and jax.process_index() == 0:
            print(f"{path}: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()), file=sys.stderr)
        return rows, records.identity

    rows, who = read(config.data)
    return Input(tokenizer, rows, read(config.eval_data)[0] if config.eval_data else None, who)


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


def row_batches(config: Config, rows: TokenRows, *, shuffle: bool | None = None) -> Batches:
    return batches(
        rows, batch_size=config.batch_size or 0, seed=config.seed,
        shuffle=config.shuffle if shuffle is None else shuffle,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip


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


def to_host(params: Any) -> Any:
    """All of every array, on this process."""
    return (
        multihost_utils.process_allgather(params, tiled=True)
        if jax.process_count() > 1
        else jax.device_get(params)
    )


def open_workdir(workdir: Path, config: Config, who: dict) -> None:
    """Makes the workdir, or clears what an earlier run left there (`--fresh`), and writes config.json."""
    ours = ("checkpoints", "best", "tensorboard", "figures", "policy", "metrics.jsonl", "report.md", "report.json",
            "config.json", "completions.jsonl")  # fmt: skip
    # On every process: one that stops alone leaves the others waiting for it.
    require(
        workdir.is_dir() or not workdir.exists(),
        "--workdir",
        f"{workdir} is a file",
        "a directory",
        "Name another.",
    )
    if jax.process_index() == 0:
        for name in ours if config.fresh else ():
            path = workdir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            write_json(workdir / "config.json", {"settings": vars(config), "identity": who})
    wait_for_all("workdir")


def wait_for_all(name: str) -> None:
    """Returns when every process is here; what the first one has written is then there for all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def export(
    config: Config, workdir: Path, problem: Problem, fitted: Fitted, rows: TokenRows, before, after
) -> Outcome:
    """policy/ in Hugging Face form, the report and its figure."""
    target, params = workdir / "policy", to_host(fitted.state.params)
    if jax.process_index() != 0:
        return Outcome(workdir, target, {})
    save_huggingface(target, problem.policy, params, source_dir=config.model)
    if problem.judge:
        write_json(target / "judge.json", {"judge": problem.judge})
    lines = read_metrics(workdir / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    first, last = steps[0], steps[-1]
    names = [name for name in first if name not in ("step", "seconds")]
    columns = {"first step": first, "last step": last}
    if before:
        columns |= {"held out, before": before, "held out, after": after}
    table = markdown_table(
        ["metric", *columns],
        [[n, *(f"{c[n]:.4g}" if n in c else "" for c in columns.values())] for n in names],
    )
    draw_curves(workdir / "figures" / "curves.png", lines, title=config.algorithm or "")
    took = sum(line["seconds"] for line in steps)
    early = (
        f", stopped early; the best state is kept (held-out loss {fitted.best_validation:.4g})"
        if fitted.stopped_early_at
        else ""
    )
    loss = f" with the loss {config.loss}" if config.algorithm == "dpo" else ""
    text = (
        f"# {config.algorithm}{loss}\n\n{last['step']} steps of {config.batch_size} rows{early}; {took:.1f} s. Data "
        f"`{config.data}` ({rows.counts['kept']} rows kept of {rows.counts['rows']}), start `{config.model}`.\n\n"
        f"{table}\n\n![curves](figures/curves.png)\n"
    )
    summary = {
        "algorithm": config.algorithm, "loss": config.loss if config.algorithm == "dpo" else None,
        "steps": last["step"],
        "stopped_early_at": fitted.stopped_early_at, "first": first, "last": last, "held_out_before": before,
        "held_out_after": after, "counts": rows.counts, "seconds_in_steps": took,
    }  # fmt: skip
    write_report(workdir, text, summary)
    return Outcome(workdir, target, summary)


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
    state = jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, placed
    )
    planned = make_plan(
        make_step(problem.objective, optimizer, placed, mesh), state, batch, chip=config.chip, devices=count,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(problem.params)),
        frozen=sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(problem.frozen)),
    )  # fmt: skip
    print(describe_plan(planned))
    return planned._asdict()
