"""What a driver and its workers say to each other: JSON, a line at a time. Needs the standard library alone."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments.benchmarks.shapes import Shape

MARK = "@"  # begins a line that is ours; whatever else libraries print is not


class Task(NamedTuple):
    """What a worker is to do.

    Attributes:
      shape: of model and data.
      directory: where `policy` and `reference` are, as Hugging Face directories.
      calls: no case is run more often.
      options: what this worker alone understands.
    """

    shape: Shape
    directory: str
    calls: int
    options: dict[str, Any]

    def written(self) -> str:
        """As an argument for the command line."""
        return json.dumps({**self._asdict(), "shape": vars(self.shape)})


def read_task() -> Task:
    """The worker's task, from its command line."""
    task = json.loads(sys.argv[1])
    return Task(Shape(**task["shape"]), task["directory"], task["calls"], task["options"])


def serve(cases: Mapping[str, Callable[..., dict[str, Any]]], **about: Any) -> None:
    """Says that the cases are ready, then runs the one that each line of stdin names.

    A case returns when its work is done, with what else there is to tell. It is run for the first time by the
    worker itself, before this, so that being ready means having done it once.
    """
    say({"cases": list(cases), "peak_bytes": peak_bytes(), **about})
    for line in sys.stdin:
        case = cases[line.strip()]
        cpu, start = time.process_time(), time.perf_counter()
        told = case()
        seconds = time.perf_counter() - start
        used = time.process_time() - cpu
        say({"seconds": seconds, "cpu_seconds": used, "peak_bytes": peak_bytes(), **told})


def say(record: dict[str, Any]) -> None:
    print("\n" + MARK + json.dumps(record), flush=True)


def peak_bytes() -> int:
    """The most memory that this process ever held at once (VmHWM)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
