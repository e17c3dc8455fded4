"""The loop: batches in, steps taken, everything else (log, save, validate, stop) at the right moment."""

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm.auto import tqdm

from prefjax.train.checkpoint import Checkpoints, abstract_state
from prefjax.train.metrics import Metrics
from prefjax.train.step import TrainState


@runtime_checkable
class Batches(Protocol):
    """An endless source of batches whose position can be written down."""

    def __next__(self) -> dict: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class Validation(NamedTuple):
    """What early stopping asks: a number to keep low, how often, and how many times it may fail to fall."""

    measure: Callable[[Any], Mapping[str, float]]  # params -> metrics; must contain "loss"
    every: int
    patience: int = 0  # 0: never stop early
    best: Checkpoints | None = None  # where the best state is kept; the run ends with it


class NonFinite(RuntimeError):
    """A loss or gradient was nan or infinite: the run has stopped before it could be saved."""


class Stopped(SystemExit):
    """SIGTERM or SIGINT arrived; the state is saved and the same command resumes."""


class Fitted(NamedTuple):
    state: TrainState
    stopped_early_at: int | None
    best_validation: float | None


def fit(
    state: TrainState,
    step: Callable,
    batches: Batches,
    *,
    steps: int,
    prepare: Callable[[TrainState, dict], Any],
    checkpoints: Checkpoints,
    metrics: Metrics,
    placed: TrainState,
    save_every: int = 100,
    validation: Validation | None = None,
    schedule: Callable[[int], Any] | None = None,
    expect_first: Callable[[Mapping[str, float]], None] | None = None,
    name_rows: Callable[[Any], str] | None = None,
    title: str = "train",
) -> Fitted:
    """Takes `steps` steps from `state`, or from the newest checkpoint if there is one.

    Args:
      state: the state at step 0, placed.
      step: from `make_step`, with an objective that returns a dict.
      batches: the data; its cursor is saved with every checkpoint.
      prepare: `state, batch -> batch on the mesh`: puts rows on devices, adds reference log-probabilities,
        or samples completions.
      placed: the shardings of `state`, to restore into.
      schedule: logged as `learning_rate`.
      name_rows: how to name the rows of `batch["index"]` in an error (file and lines); as numbers unless given.
      expect_first: raises if the metrics of step 1 are not what they must be where policy = reference.

    Returns: the last state (the best one, when `validation.best` keeps it).
    Raises: NonFinite with the step, the rows and the first bad term; Stopped after a signal, saved.
    """
    memory: dict[str, Any] = {"best": None, "best_step": None, "failed": 0, "ended": None}
    if checkpoints.latest() is not None:
        state, cursor = checkpoints.restore(abstract_state(state, placed))
        batches.set_state(cursor["data"])
        memory = cursor["memory"]
    done = int(state.step)
    metrics.rewind(done)
    if done > steps and jax.process_index() == 0:
        print(f"{title}: {done} steps were taken before, more than the {steps} asked for.", file=sys.stderr)

    clock = time.perf_counter()
    pending: tuple[int, Any, dict] | None = None  # the step whose numbers have not been looked at yet

    def settle() -> None:
        # Reading numbers waits for the device, so each step's are read while the next one runs.
        nonlocal pending, clock
        if pending is None:
            return
        number, rows, measured = pending
        pending = None
        values = {name: float(value) for name, value in measured.items()}
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if bad is not None:
            raise NonFinite(
                f"{title}, step {number}: {bad} is {values[bad]} (the first bad term; in order of computation: "
                f"{', '.join(f'{k}={v:.4g}' for k, v in values.items())}). Rows of the batch: "
                f"{(name_rows or _rows)(rows)}. Nothing after step {checkpoints.latest() or 0} was saved. "
                "Look at these rows, or lower --learning-rate."
            )
        if number == 1 and expect_first is not None:
            expect_first(values)
        if schedule is not None:
            values["learning_rate"] = float(schedule(number - 1))
        clock, before = time.perf_counter(), clock
        values["seconds"] = round(clock - before, 4)
        metrics.write(number, values)
        bar.set_postfix_str(f"loss {values['loss']:.4f}", refresh=False)

    def save() -> None:
        settle()  # a state is saved only when its last step is known to be finite
        checkpoints.save(state, {"data": batches.get_state(), "memory": memory})

    bar = tqdm(
        total=steps, initial=done, desc=title, unit="step", dynamic_ncols=True, leave=True,
        disable=jax.process_index() != 0, file=sys.stderr, mininterval=1.0 if sys.stderr.isatty() else 15.0,
    )  # fmt: skip
    with bar, _signals() as signalled:
        while done < steps and memory["ended"] is None:
            batch = next(batches)
            rows = batch["index"]
            state, measured = step(state, prepare(state, batch))
            settle()
            done += 1
            pending = (done, rows, measured)
            bar.update()
            if validation is not None and done % validation.every == 0:
                settle()
                _validate(validation, state, done, memory, metrics, batches)
            stop = _agreed(signalled, done)
            if done % save_every == 0 or done == steps or stop or memory["ended"] is not None:
                save()
            if stop:
                checkpoints.wait()
                bar.close()
                print(f"{title}: stopped at step {done}, saved. The same command resumes.", file=sys.stderr)
                raise Stopped(128 + signalled[0] if signalled else 143)
        settle()
    checkpoints.wait()
    if validation is not None and validation.best is not None and memory["best_step"] is not None:
        validation.best.wait()
        state, _ = validation.best.restore(abstract_state(state, placed), memory["best_step"])
    return Fitted(state, memory["ended"], memory["best"])


def _validate(validation: Validation, state, done: int, memory: dict, metrics: Metrics, batches) -> None:
    values = dict(validation.measure(state.params))
    metrics.write(done, {f"eval_{name}": value for name, value in values.items()})
    if memory["best"] is None or values["loss"] < memory["best"]:
        memory.update(best=values["loss"], best_step=done, failed=0)
        if validation.best is not None:
            validation.best.save(state, {"data": batches.get_state(), "memory": dict(memory)})
            validation.best.wait()  # before the checkpoint that remembers it
    else:
        memory["failed"] += 1
        if validation.patience and memory["failed"] >= validation.patience:
            memory["ended"] = done


@contextmanager
def _signals():
    """A list that receives the number of the first SIGTERM or SIGINT; a second one acts as usual."""
    received: list[int] = []

    def remember(number, _frame):
        received.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {}
    try:
        before = {name: signal.signal(name, remember) for name in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _agreed(signalled: list[int], done: int) -> bool:
    """Whether to stop now; with several processes all of them stop after the same step."""
    if jax.process_count() == 1:
        return bool(signalled)
    votes = multihost_utils.process_allgather(np.array([bool(signalled)]))
    return bool(np.any(votes))


def _rows(rows) -> str:
    rows = np.asarray(rows).reshape(-1).tolist()
    return ", ".join(map(str, rows[:64])) + (f", … ({len(rows)} in all)" if len(rows) > 64 else "")
