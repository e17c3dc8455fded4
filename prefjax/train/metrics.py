"""What a run says of itself: one JSON line a step, the same numbers to TensorBoard."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter


class Metrics:
    """Writes `metrics.jsonl` and `tensorboard/` in a directory; only the first process of a run writes.

    A resumed run calls `rewind(step)`: lines of steps that will be run again are dropped, so that the file
    reads as if the run had never stopped.
    """

    def __init__(self, directory: Path | str):
        self.path = Path(directory) / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        self._board: SummaryWriter | None = None

    def rewind(self, step: int) -> None:
        if not self._writes or not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        fresh = self.path.with_suffix(".jsonl.new")
        fresh.write_text("".join(f"{line}\n" for line in kept))
        fresh.replace(self.path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is None:
            self._board = SummaryWriter(str(self.path.parent / "tensorboard"))
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf  # a line cut short by a kill


def read_metrics(path: Path | str) -> list[dict]:
    """The lines of a `metrics.jsonl`, as dicts."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]
