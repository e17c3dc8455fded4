"""One algorithm, from a model directory and a data file to a workdir. `run(config)` is what --algorithm does."""

import json
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
from jax.sharding import Mesh

from experiments.figures import draw_curves
from experiments.settings import LEARNING_RATES, Config, default_workdir, digest_of_model, identity
from prefjax.align import (
    PAIRED_LOSSES,
    add_reference,
    best_of_n,
    loss_at_start,
    nash_md_objective,
    nash_md_rollout,
    paired_objective,
    preference_judge,
    preference_objective,
    reward_judge,
    reward_objective,
    round_robin,
    rows_of,
    sft_objective,
)
from prefjax.checks import refuse, require
from prefjax.data import (
    PREFERENCE,
    PROMPT_COMPLETION,
    PROMPT_ONLY,
    Batches,
    TokenRows,
    batches,
    load_tokenizer,
    prepare_jsonl,
    tokenise,
    tokenizer_fingerprint,
)
from prefjax.policy import Policy, load_huggingface, sample, save_huggingface
from prefjax.train import (
    Checkpoints,
    Metrics,
    TrainState,
    Validation,
    check_division,
    fit,
    init_state,
    make_measure,
    make_mesh,
    make_optimizer,
    make_schedule,
    make_step,
    markdown_table,
    parse_mesh,
    place,
    read_metrics,
    spread,
    step_key,
    write_json,
    write_report,
    write_text,
)
from prefjax.types import mean_of

KINDS = {
    "sft": PROMPT_COMPLETION, "dpo": PREFERENCE, "reward": PREFERENCE, "preference": PREFERENCE,
    "nash_md": PROMPT_ONLY, "best_of_n": PROMPT_ONLY,
}  # fmt: skip
EPOCHS = 3
BILINEAR_SCORES = 8  # two for Bradley–Terry, the others for what is not transitive


class Problem(NamedTuple):
    """All that distinguishes one algorithm from another, for a loop that knows none of them."""

    policy: Policy
    params: Any
    objective: Callable
    prepare: Callable  # state, batch -> batch on the mesh
    expect_first: Callable | None = None  # what step 1 must show where policy = reference
    judge: str = ""  # what comes out, if not a policy: a reward model, or a preference model of some form


class Outcome(NamedTuple):
    workdir: Path
    policy: Path  # a Hugging Face directory; for best_of_n the completions that it kept
    summary: dict


def run(config: Config) -> Outcome:
    """Runs, or resumes, or finds finished, one algorithm."""
    config = with_defaults(config)
    mesh = make_mesh(**parse_mesh(config.mesh))
    microbatches = check_division(config.batch_size or 0, config.micro_batch_size or 0, mesh)
    tokenizer = load_tokenizer(config.model)
    rows = read_rows(config, config.data, tokenizer)
    held_out = read_rows(config, config.eval_data, tokenizer) if config.eval_data else None
    config = replace(config, steps=config.steps or EPOCHS * -(-len(rows.lines) // (config.batch_size or 1)))
    who = identity(
        config,
        model=digest_of_model(config.model),
        reference=digest_of_model(config.reference),
        judge=digest_of_model(config.judge) if config.judge else "",
        tokenizer=tokenizer_fingerprint(tokenizer),
        data={"file": prepared_identity(config, config.data), **rows.counts},
    )
    workdir = Path(config.workdir) if config.workdir else default_workdir(config, who)
    open_workdir(workdir, config, who)
    if config.algorithm == "best_of_n":
        return run_best_of_n(config, workdir, rows, tokenizer, mesh)

    problem = build(config, tokenizer, rows, held_out, mesh, microbatches)
    optimizer, schedule = make_optimizer_of(config)
    shapes = jax.eval_shape(lambda p: init_state(p, optimizer, jax.random.key(config.seed)), problem.params)
    placed = spread(shapes, mesh)
    start = jax.jit(init_state, static_argnums=1, out_shardings=placed)
    state = start(problem.params, optimizer, jax.random.key(config.seed))
    step = make_step(problem.objective, optimizer, placed, mesh)
    measure = measurer(config, problem, held_out, placed, mesh, microbatches)
    before = measure(state.params) if measure else {}

    source = row_batches(config, rows)
    checkpoints = Checkpoints(workdir / "checkpoints", identity=who)
    best = Checkpoints(workdir / "best", identity=who) if config.patience else None
    metrics = Metrics(workdir)
    try:
        fitted = fit(
            state,
            step,
            source,
            steps=config.steps or 0,
            prepare=problem.prepare,
            checkpoints=checkpoints,
            metrics=metrics,
            placed=placed,
            save_every=config.save_every,
            validation=Validation(measure, config.eval_every, config.patience, best)
            if measure and config.eval_every
            else None,
            schedule=schedule,
            expect_first=problem.expect_first,
            name_rows=lambda index: f"{rows.source}, lines " + ", ".join(str(rows.lines[i]) for i in index if i >= 0),
            title=config.algorithm or "",
        )
    finally:
        source.close()
        metrics.close()
        checkpoints.close()
        if best is not None:
            best.close()
    params = to_host(fitted.state.params)
    after = measure(fitted.state.params) if measure else {}
    return export(config, workdir, problem, params, rows, before, after, fitted.stopped_early_at)


def with_defaults(config: Config) -> Config:
    """Fills in what the algorithm decides, and refuses what it cannot do without."""
    algorithm = config.algorithm or "sft"
    require(bool(config.model), "--model", "nothing", "a Hugging Face directory", "Name the model to start from.")
    require(bool(config.data), "--data", "nothing", f"JSON Lines with {KINDS[algorithm].needs}", "Name a file.")
    if algorithm in ("nash_md", "best_of_n"):
        require(
            bool(config.judge), "--judge", "nothing", "a directory with a reward or preference model",
            "Train one with --algorithm preference (or reward), and name its policy/ directory.",
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
    )


def read_rows(config: Config, path: str, tokenizer) -> TokenRows:
    records = prepare_jsonl(path, KINDS[config.algorithm or ""], bad=config.bad_rows)
    rows = tokenise(records, tokenizer, max_length=config.max_length, overlong=config.overlong)
    left_out = {**records.skipped, **{k: v for k, v in rows.counts.items() if k not in ("rows", "kept") and v}}
    if left_out and jax.process_index() == 0:
        print(f"{path}: " + ", ".join(f"{v} {k}" for k, v in left_out.items()), file=sys.stderr)
    return rows


def prepared_identity(config: Config, path: str) -> dict:
    return prepare_jsonl(path, KINDS[config.algorithm or ""], bad=config.bad_rows).identity._asdict()


def row_batches(config: Config, rows: TokenRows, *, epoch_only: bool = False) -> Batches:
    return batches(
        rows,
        batch_size=config.batch_size or 0,
        seed=config.seed,
        shuffle=config.shuffle and not epoch_only,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def make_optimizer_of(config: Config):
    schedule = make_schedule(
        config.learning_rate or 0.0,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        steps=config.steps or 0,
    )
    return make_optimizer(schedule, weight_decay=config.weight_decay, clip_norm=config.clip_norm), schedule


def build(config: Config, tokenizer, rows: TokenRows, held_out, mesh: Mesh, microbatches: int) -> Problem:
    """The policy, its objective and how its batches come about."""
    heads = {"reward": 1, "preference": 1 if config.preference_form == "joint" else BILINEAR_SCORES}
    policy, params = load_huggingface(
        config.model, dtype=config.dtype, num_scores=heads.get(config.algorithm or ""),
        # A bilinear head at 0 has gradient 0; the others start at 0, where every preference is 1/2.
        score_key=jax.random.key(config.seed) if heads.get(config.algorithm or "", 1) > 1 else None,
    )  # fmt: skip
    longest = max(r.longest_completion() for r in (rows, held_out) if r is not None)

    def on_mesh(batch):
        return place(batch, mesh, microbatches)

    if config.algorithm == "sft":
        return Problem(policy, params, sft_objective(policy, max_completion=longest), lambda _, b: on_mesh(b))
    if config.algorithm == "reward":
        return Problem(policy, params, reward_objective(policy), lambda _, b: on_mesh(b), judge="reward")
    if config.algorithm == "preference":
        objective = preference_objective(policy, form=config.preference_form, max_completion=longest)
        return Problem(policy, params, objective, lambda _, b: on_mesh(b), judge=config.preference_form)

    reference = load_reference(config, policy, params, mesh)
    from_start = config.reference == config.model
    if config.algorithm == "dpo":
        add = jax.jit(add_reference(policy, max_completion=longest))
        objective = paired_objective(
            policy, PAIRED_LOSSES[config.loss], beta=config.beta, label_smoothing=config.label_smoothing,
            max_completion=longest,
        )  # fmt: skip
        at_start = loss_at_start(PAIRED_LOSSES[config.loss], beta=config.beta, label_smoothing=config.label_smoothing)
        return Problem(
            policy, params, objective, lambda _, batch: add(reference, on_mesh(batch)),
            expect_first=equals_at_start({"loss": at_start, "rewards/margins": 0.0}, config) if from_start else None,
        )  # fmt: skip

    stop_tokens = (tokenizer.eos_token_id,)
    judge, judge_params = load_judge(config, mesh)
    rollout = jax.jit(
        nash_md_rollout(
            policy, judge, max_new_tokens=config.max_new_tokens, stop_tokens=stop_tokens,
            mixture_coef=config.mixture_coef, temperature=config.temperature,
        )  # fmt: skip
    )

    def roll(state: TrainState, batch: dict):
        return rollout(state.params, reference, judge_params, on_mesh(batch), step_key(state))

    on_policy = {"ratio": 1.0} if config.temperature == 1.0 else {}
    expected = {**on_policy, **({"kl": 0.0} if from_start else {})}
    return Problem(
        policy, params, nash_md_objective(policy, beta=config.beta, max_new_tokens=config.max_new_tokens), roll,
        expect_first=equals_at_start(expected, config),
    )  # fmt: skip


def load_reference(config: Config, policy: Policy, params: Any, mesh: Mesh):
    """π₀ on the mesh; a copy of its own, since a training step consumes the parameters it is given."""
    if config.reference != config.model:
        other, params = load_huggingface(config.reference, dtype=config.dtype)
        require(
            other.config == policy.config, "--reference", f"{config.reference} is {other.config}",
            f"the architecture of --model, {policy.config}", "Take the model that training started from.",
        )  # fmt: skip
    return jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=spread(params, mesh))(params)


def load_judge(config: Config, mesh: Mesh):
    """A judge by what its judge.json says it is; without one, a reward model, as TRL's RewardTrainer saves it."""
    policy, params = load_huggingface(config.judge, dtype=config.dtype)
    require(
        policy.config.num_scores > 0, "--judge", f"{config.judge} is a language model", "a model with a score head",
        "Train one with --algorithm preference or reward.",
    )  # fmt: skip
    about = Path(config.judge) / "judge.json"
    kind = json.loads(about.read_text())["judge"] if about.exists() else "reward"
    judge = (
        reward_judge(policy)
        if kind == "reward"
        else preference_judge(policy, form=kind, max_completion=config.max_new_tokens)
    )
    return judge, jax.device_put(params, spread(params, mesh))


def equals_at_start(expected: dict[str, float], config: Config) -> Callable:
    """Where the reference is the start, step 1 is known; anything else means that something is broken."""
    tolerance = 1e-3 if config.dtype == "float32" else 5e-2

    def check(measured) -> None:
        for name, value in expected.items():
            if abs(measured[name] - value) > tolerance * max(1.0, abs(value)):
                refuse(
                    f"{config.algorithm}, step 1", f"{name} is {measured[name]:.6g}", f"{value:.6g} where policy = reference",
                    "The policy is not the reference it was compared with, or log-probabilities differ between "
                    "the two passes; do not trust this run.",
                )  # fmt: skip

    return check


def measurer(config: Config, problem: Problem, held_out: TokenRows | None, placed: TrainState, mesh, microbatches):
    """`params -> metrics` over all of --eval-data; None without it. On-policy algorithms have no such loss."""
    if held_out is None or config.algorithm == "nash_md":
        return None
    compiled = make_measure(problem.objective, placed.params, mesh)

    def measure(params) -> dict[str, float]:
        source = row_batches(config, held_out, epoch_only=True)
        summed = None
        for _ in range(source.steps_per_epoch):
            here = compiled(params, problem.prepare(None, next(source)), jax.random.key(0))
            summed = here if summed is None else jax.tree.map(jnp.add, summed, here)
        source.close()
        return {name: float(value) for name, value in mean_of(summed).items()}

    return measure


def to_host(params):
    """All of every array, on this process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(params, tiled=True)
    return jax.device_get(params)


def open_workdir(workdir: Path, config: Config, who: dict) -> None:
    """Makes the workdir, or clears what an earlier run left there (`--fresh`), and writes config.json."""
    ours = ("checkpoints", "best", "tensorboard", "figures", "policy", "metrics.jsonl", "report.md", "report.json",
            "config.json", "completions.jsonl")  # fmt: skip
    if jax.process_index() == 0:
        if config.fresh:
            for name in ours:
                path = workdir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        require(
            not workdir.exists() or workdir.is_dir(), "--workdir", f"{workdir} is a file", "a directory", "Name another.",
        )  # fmt: skip
        workdir.mkdir(parents=True, exist_ok=True)
        if not (workdir / "config.json").exists():
            settings = {name: getattr(config, name) for name in config.__dataclass_fields__}
            write_json(workdir / "config.json", {"settings": settings, "identity": who})
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir")


def export(config, workdir: Path, problem: Problem, params, rows: TokenRows, before, after, stopped_early_at) -> Outcome:
    """policy/ in Hugging Face form, the report and its figure."""
    target = workdir / "policy"
    if jax.process_index() != 0:
        return Outcome(workdir, target, {})
    save_huggingface(target, problem.policy, params, source_dir=config.model)
    if problem.judge:
        write_json(target / "judge.json", {"judge": problem.judge})
    lines = read_metrics(workdir / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    names = [name for name in steps[0] if name not in ("step", "seconds")]
    table = markdown_table(
        ["metric", "first step", "last step", "held out, before", "held out, after"],
        [[n, *(f"{v:.4g}" for v in (steps[0][n], steps[-1][n])),
          *(f"{v[n]:.4g}" if n in v else "" for v in (before, after))] for n in names],
    )  # fmt: skip
    draw_curves(workdir / "figures" / "curves.png", lines, title=config.algorithm)
    took = sum(line["seconds"] for line in steps)
    ended = f"stopped early at step {stopped_early_at}" if stopped_early_at else f"{steps[-1]['step']} steps"
    text = (
        f"# {config.algorithm}{' ' + config.loss if config.algorithm == 'dpo' else ''}\n\n"
        f"{ended} of {config.batch_size} rows from `{config.data}` ({rows.counts['kept']} rows kept of {rows.counts['rows']}), "
        f"starting at `{config.model}`; {took:.1f} s in steps.\n\n{table}\n\n![curves](figures/curves.png)\n"
    )
    summary = {
        "algorithm": config.algorithm, "steps": steps[-1]["step"], "stopped_early_at": stopped_early_at,
        "first": steps[0], "last": steps[-1], "held_out_before": before, "held_out_after": after,
        "counts": rows.counts, "seconds_in_steps": took,
    }  # fmt: skip
    write_report(workdir, text, summary)
    return Outcome(workdir, target, summary)


def run_best_of_n(config: Config, workdir: Path, rows: TokenRows, tokenizer, mesh: Mesh) -> Outcome:
    """Samples n completions of every prompt and keeps the judge's favourite: completions.jsonl."""
    policy, params = load_huggingface(config.model, dtype=config.dtype)
    judge, judge_params = load_judge(config, mesh)
    params = jax.device_put(params, spread(params, mesh))
    kept, preferences = choose_best(
        config, policy, params, judge, judge_params, rows, stop_tokens=(tokenizer.eos_token_id,)
    )
    prompts = [tokenizer.decode(rows.fields["prompt"].row(i), skip_special_tokens=True) for i in range(len(rows.lines))]
    lines = [
        {"prompt": prompt, "completion": tokenizer.decode(ids, skip_special_tokens=True)}
        for prompt, ids in zip(prompts, kept, strict=True)
    ]
    target = workdir / "completions.jsonl"
    write_text(target, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    summary = {"algorithm": "best_of_n", "n": config.num_samples, "mean_preference_over_others": float(np.mean(preferences))}
    write_report(
        workdir,
        f"# best of {config.num_samples}\n\n{len(lines)} prompts; the kept completion is preferred to the others with "
        f"mean probability {np.mean(preferences):.3f} by the judge. They are in `completions.jsonl`.\n",
        summary,
    )
    return Outcome(workdir, target, summary)


def choose_best(config: Config, policy, params, judge, judge_params, rows: TokenRows, *, stop_tokens):
    """The tokens of the kept completion of every prompt, and how much the judge prefers it to the others."""

    @jax.jit
    def one(prompt, lengths, key):
        def draw(key):
            return rows_of(
                sample(policy, params, prompt, lengths, key, max_new_tokens=config.max_new_tokens,
                       temperature=config.temperature, stop_tokens=stop_tokens)
            )  # fmt: skip

        candidates = jax.lax.map(draw, jax.random.split(key, config.num_samples))
        table = round_robin(judge, judge_params, candidates)
        winner = best_of_n(table)
        wins = (jnp.sum(table, axis=1) - 0.5) / max(config.num_samples - 1, 1)
        row = jnp.arange(winner.shape[0])
        return jax.tree.map(lambda leaf: leaf[winner, row], candidates), wins[winner, row]

    source = row_batches(config, rows, epoch_only=True)
    kept: list = []
    preferences: list[float] = []
    for number in range(source.steps_per_epoch):
        batch = next(source)
        chosen, wins = one(
            batch["prompt"]["tokens"], batch["prompt"]["lengths"],
            jax.random.fold_in(jax.random.key(config.seed), number),
        )  # fmt: skip
        chosen, wins = jax.device_get((chosen, wins))
        for i in np.flatnonzero(batch["weight"]):
            kept.append(chosen["tokens"][i, chosen["prompt_lengths"][i] : chosen["lengths"][i]])
            preferences.append(float(wins[i]))
    source.close()
    return kept, preferences
