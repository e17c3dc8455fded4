"""What a run leaves behind: its workdir, the model in Hugging Face form, a report and its figure."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import save_file

from experiments.figures import draw_curves
from experiments.problems import Problem
from experiments.settings import LOSSES, Config
from prefjax.checks import refuse, require
from prefjax.data import TokenRows
from prefjax.policy import ADAPTER_FILES, Policy, merge_adapters, save_huggingface, save_peft
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


OURS = ("checkpoints", "best", "tensorboard", "wandb", "figures", "policy", "adapter", "metrics.jsonl", "report.md",
        "report.json", "config.json", "completions.jsonl")  # fmt: skip


def check_workdir(workdir: Path, config: Config) -> None:
    """Refuses a workdir that is a file, a model's directory, or (with --fresh) not one of ours."""
    # On every process: one that stops alone leaves the others waiting for it.
    require(
        workdir.is_dir() or not workdir.exists(),
        "--workdir",
        f"{workdir} is a file",
        "a directory",
        "Name another.",
    )
    for name in ("model", "reference", "judge"):
        theirs = getattr(config, name)
        require(
            not theirs or workdir.resolve() != Path(theirs).resolve(), "--workdir", f"{workdir}, which is --{name} too",
            "a directory for this run alone", "Name another.",
        )  # fmt: skip
    require(
        not config.fresh or not workdir.exists() or not any(workdir.iterdir()) or identity_in(workdir) is not None,
        "--fresh", f"{workdir}, which is not empty and not a workdir of an earlier run", "a workdir to clear",
        "Name another, or empty it yourself.",
    )  # fmt: skip


def identity_in(workdir: Path) -> dict | None:
    """What the config.json of a workdir says that its run is; None where there is none."""
    try:
        return json.loads((workdir / "config.json").read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def opened_workdir(workdir: Path, config: Config, who: dict) -> Iterator[None]:
    """Makes the workdir, clears it if --fresh, writes config.json, and keeps a second run out while this one is in."""
    with ExitStack() as held:
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((workdir / ".lock").open("w"))
            try:
                fcntl.flock(
                    lock, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # given back when the process ends, however it ends
            except OSError:
                refuse(
                    "--workdir", f"{workdir} is in use", "one run at a time", "Wait for it, or name another."
                )
            for name in OURS if config.fresh else ():
                path = workdir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            begun = any((workdir / "checkpoints").glob("[0-9]*"))
            if not begun or identity_in(workdir) == json.loads(json.dumps(who)):
                write_json(workdir / "config.json", {"settings": vars(config), "identity": who})
        wait_for_all("workdir")
        yield


def wait_for_all(name: str) -> None:
    """Returns when every process is here; what the first one has written is then there for all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def export(
    config: Config, workdir: Path, problem: Problem, fitted: Fitted, rows: TokenRows, before, after
) -> Outcome:
    """policy/ in Hugging Face form, the report and its figure."""
    target, model = workdir / "policy", problem.model
    params = to_host(model.joined(fitted.state.params))
    if jax.process_index() != 0:
        return Outcome(workdir, target, {})
    value = None
    if set(params) == {"policy", "value"}:
        params, value = params["policy"], params["value"]
    write_policy(config, workdir, model.policy, params)
    if value is not None:
        save_file({f"v_head.summary.{name}": np.asarray(leaf) for name, leaf in value.items()},
                  target / "value_head.safetensors", metadata={"format": "pt"})  # fmt: skip
    if problem.judge:
        write_json(target / "judge.json", {"judge": problem.judge})
    text, summary = describe(config, workdir, fitted, rows, before, after)
    write_report(workdir, text, summary)
    return Outcome(workdir, target, summary)


def write_policy(config: Config, workdir: Path, policy: Policy, params: Any) -> None:
    """policy/ and, of a model with adapters, adapter/, as --lora-export asks."""
    target = workdir / "policy"
    if policy.config.lora is None:
        save_huggingface(target, policy, params, source_dir=config.model)
        return
    alone = target if config.lora_export == "adapter" else workdir / "adapter"
    # What another --lora-export has left would be read together with what is written now.
    if config.lora_export == "adapter":
        shutil.rmtree(target, ignore_errors=True)
    for name in ADAPTER_FILES:
        (target / name).unlink(missing_ok=True)
    if alone != workdir / "adapter" or config.lora_export == "merged":
        shutil.rmtree(workdir / "adapter", ignore_errors=True)
    if config.lora_export != "adapter":
        save_huggingface(target, *merge_adapters(policy, params), source_dir=config.model)
    if config.lora_export != "merged":
        save_peft(alone, policy, params, base=Path(config.model).resolve(), source_dir=config.model)


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
    loss = config.which_loss if config.algorithm in LOSSES else None
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
