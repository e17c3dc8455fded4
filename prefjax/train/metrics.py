"""What a run says of itself: one JSON line a step, the same numbers to TensorBoard, and to whoever else is asked."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from prefjax.checks import refuse, require


class Tracker(NamedTuple):
    """Where else numbers go, as three functions."""

    write: Callable[
        [int, Mapping[str, float]], None
    ]  # a step, and what was measured at it; in order of steps
    rewind: Callable[[int], None]  # the run goes on after this step: what came later is made again
    close: Callable[[], None]


OpenTracker = Callable[[Path], Tracker]  # given the run's directory, in the one process that writes


class Metrics:
    """Writes `metrics.jsonl` and `tensorboard/` in a directory, and to more trackers; only the first process does.

    A resumed run calls `rewind(step)`: lines of steps that will be run again are dropped, so that the file
    reads as if the run had never stopped. The file is the truth: a tracker that fails while the run goes on
    (a network, a full disk elsewhere) is reported once, on stderr, and asked again at the next step.
    """

    def __init__(self, directory: Path | str, *, trackers: Sequence[OpenTracker] = ()):
        self.path = Path(directory) / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        openers = (tensorboard, *trackers) if self._writes else ()
        self._trackers = [opener(self.path.parent) for opener in openers]
        self._failed: set[int] = set()

    def rewind(self, step: int) -> None:
        if not self._writes:
            return
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            fresh = self.path.with_suffix(".jsonl.new")
            fresh.write_text("".join(f"{line}\n" for line in kept))
            fresh.replace(self.path)
        self._tell(lambda tracker: tracker.rewind(step))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._tell(lambda tracker: tracker.write(step, values))

    def close(self) -> None:
        self._tell(lambda tracker: tracker.close())
        self._trackers = []

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for place, tracker in enumerate(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # of every kind: none of them is worth a run
                if place not in self._failed:
                    self._failed.add(place)
                    print(
                        f"A tracker failed ({type(error).__name__}: {error}); the run goes on, and {self.path} has "
                        "every number. It is not reported again.",
                        file=sys.stderr,
                    )


def tensorboard(directory: Path) -> Tracker:
    """`tensorboard/` in the run's directory, made when there is something to write."""
    # Here: it imports torch where there is one.
    from tensorboardX import SummaryWriter

    board: SummaryWriter | None = None
    resumed_at = 0

    def write(step: int, values: Mapping[str, float]) -> None:
        nonlocal board
        if board is None:
            # TensorBoard then hides what an earlier start wrote from that step on.
            purge = resumed_at + 1 if resumed_at else None
            board = SummaryWriter(str(directory / "tensorboard"), purge_step=purge)
        for name, value in values.items():
            board.add_scalar(name, value, step)

    def rewind(step: int) -> None:
        nonlocal resumed_at
        resumed_at = step

    def close() -> None:
        nonlocal board
        if board is not None:
            board.close()
            board = None

    return Tracker(write, rewind, close)


def wandb_run(
    *, project: str | None = None, name: str | None = None, config: Mapping[str, Any] | None = None
) -> OpenTracker:
    """A Weights & Biases run; what is not given here comes from its own environment variables (WANDB_PROJECT, …).

    `wandb/run_id` in the run's directory keeps the run's id, by which a resumed run goes on in the same one.
    Steps that are made again are not sent again: they have the same numbers.

    Raises: InputError here if the package is not installed; when opened, if the run cannot be started.
    """
    require(
        "wandb" in sys.modules or importlib.util.find_spec("wandb") is not None, "--report-to wandb",
        "the package wandb is not installed", "it is there when it is asked for",
        "Install it (pip install wandb), or leave --report-to out.",
    )  # fmt: skip

    def open_run(directory: Path) -> Tracker:
        import wandb  # only here: it is optional, and slow to import

        kept = directory / "wandb" / "run_id"
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            run = wandb.init(
                project=project, name=name, config=dict(config or {}), dir=str(directory),
                id=kept.read_text().strip() if kept.exists() else None, resume="allow",
            )  # fmt: skip
            kept.write_text(run.id)
        except Exception as error:
            refuse(
                "--report-to wandb", f"no run could be started ({type(error).__name__}: {error})",
                "an account and a network", "Run `wandb login`, set WANDB_MODE=offline, or leave --report-to out.",
            )  # fmt: skip

        def write(step: int, values: Mapping[str, float]) -> None:
            if step >= run.step:
                run.log(dict(values), step=step)

        def close() -> None:
            run.finish(exit_code=int(sys.exc_info()[0] is not None))

        return Tracker(write, lambda step: None, close)

    return open_run


def trackers_of(
    report_to: str,
    *,
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[OpenTracker, ...]:
    """What `--report-to` names, beyond the file and TensorBoard, which are always written: "" or "wandb"."""
    names = {part.strip() for part in report_to.split(",")} - {"", "tensorboard"}
    require(
        names <= {"wandb"}, "--report-to", f"{report_to!r}", "wandb (metrics.jsonl and TensorBoard are always written)",
        "Write --report-to wandb, or leave it out.",
    )  # fmt: skip
    return (wandb_run(project=project, name=name, config=config),) if names else ()


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf  # a line cut short by a kill


def read_metrics(path: Path | str) -> list[dict]:
    """The lines of a `metrics.jsonl`, as dicts."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
