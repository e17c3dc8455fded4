"""What a run leaves behind: its workdir, the model in Hugging Face form, a report and its figure."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from experiments.figures import draw_curves
from experiments.problems import Problem
from experiments.settings import Config
from prefjax.checks import require
from prefjax.data import TokenRows
from prefjax.policy import save_huggingface
from prefjax.train import Fitted, markdown_table, read_metrics, write_json, write_report


class Outcome(NamedTuple):
    workdir: Path
    policy: Path  # a Hugging Face directory; for best_of_n the completions that it kept
    summary: dict


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
    text, summary = describe(config, workdir, fitted, rows, before, after)
    write_report(workdir, text, summary)
    return Outcome(workdir, target, summary)


def describe(
    config: Config, workdir: Path, fitted: Fitted, rows: TokenRows, before, after
) -> tuple[str, dict]:
    """The report in words and in numbers; draws its figure."""
    metrics = workdir / "metrics.jsonl"
    require(
        metrics.is_file(),
        f"{metrics}",
        "no such file",
        "the metrics that this run wrote",
        "Start over with --fresh.",
    )
    lines = read_metrics(metrics)
    steps = [line for line in lines if "loss" in line]
    first, last = steps[0], steps[-1]
    columns = {"first step": first, "last step": last}
    if before:
        columns |= {"held out, before": before, "held out, after": after}
    table = markdown_table(
        ["metric", *columns],
        [
            [name, *(f"{column[name]:.4g}" if name in column else "" for column in columns.values())]
            for name in first
            if name not in ("step", "seconds")
        ],
    )
    draw_curves(workdir / "figures" / "curves.png", lines, title=config.algorithm or "")
    took = sum(line["seconds"] for line in steps)
    loss = config.loss if config.algorithm == "dpo" else None
    early = (
        f", stopped early at the best held-out loss {fitted.best_validation:.4g}"
        if fitted.stopped_early_at
        else ""
    )
    text = (
        f"# {config.algorithm}{f' with the loss {loss}' if loss else ''}\n\n"
        f"{last['step']} steps of {config.batch_size} rows{early}; {took:.1f} s. Start `{config.model}`, data "
        f"`{config.data}` ({rows.counts['kept']} rows kept of {rows.counts['rows']}).\n\n"
        f"{table}\n\n![curves](figures/curves.png)\n"
    )
    summary = {
        "algorithm": config.algorithm, "loss": loss, "steps": last["step"], "first": first, "last": last,
        "stopped_early_at": fitted.stopped_early_at, "held_out_before": before, "held_out_after": after,
        "counts": rows.counts, "seconds_in_steps": took,
    }  # fmt: skip
    return text, summary
