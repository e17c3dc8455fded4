"""Live worker processes, timed in turns: what disturbs the machine disturbs them all alike."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.protocol import MARK, Task

ROOT = Path(__file__).parents[2]
WORKERS = "experiments.benchmarks.workers"


class Peer(NamedTuple):
    """Something to be timed: a worker module, the interpreter that runs it, and what must be installed there."""

    name: str
    module: str
    python: str
    needs: tuple[str, ...]
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed


class Died(Exception):
    """A worker ended before it was told to; the message holds its last words."""


class Worker:
    """A process that has done its case once, and waits. `ready_seconds` is from its start until then."""

    def __init__(self, peer: Peer, task: Task):
        self.peer = peer
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [peer.python, "-m", f"{WORKERS}.{peer.module}", task._replace(options=peer.options).written()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT,
            env=environment(),
        )  # fmt: skip
        self.about = self._heard()
        self.ready_seconds = time.perf_counter() - start
        self.records: dict[str, list[dict[str, Any]]] = {case: [] for case in self.about["cases"]}

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        self.process.wait()
        self.log.seek(0)
        last_words = "".join(self.log.readlines()[-8:])
        raise Died(f"{self.peer.name} ended with status {self.process.returncode}:\n{last_words}")

    def run(self, case: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then nothing is heard either
            self.process.stdin.write(case + "\n")
            self.process.stdin.flush()
        return self._heard()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()


def environment() -> dict[str, str]:
    """CPU, nothing from the network, and no programs compiled by an earlier run."""
    return {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"} | {
        "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def missing(peer: Peer) -> list[str]:
    """Which of the modules that a peer needs are not installed where it would run."""
    program = (
        "import importlib.util, sys\n"
        "print([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])"
    )
    found = subprocess.run(
        [peer.python, "-c", program, *peer.needs], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return json.loads(found.stdout.replace("'", '"'))


def start_all(peers: Sequence[Peer], task: Task) -> list[Worker]:
    """Starts those that can be, one at a time; the first is prefjax, which must. Says what is left out, and why."""
    workers: list[Worker] = []
    for peer in peers:
        if absent := missing(peer):
            if not workers:
                raise Died(f"{peer.name} needs {', '.join(absent)}, which {peer.python} does not have")
            print(f"{peer.name}: left out, since {peer.python} has no {', '.join(absent)}.")
            continue
        try:
            workers.append(Worker(peer, task))
        except Died as error:
            if not workers:
                raise
            print(f"{peer.name}: left out. {error}")
            continue
        print(f"{peer.name}: ready after {workers[-1].ready_seconds:.1f} s", file=sys.stderr)
    return workers


def alternate(workers: Sequence[Worker], *, rounds: int) -> None:
    """One round that does not count, then `rounds` that do. Every other round runs in reverse order.

    Each time is also said on stderr as it is known, so that a run that was stopped was not for nothing.
    """
    turns = [(worker, case) for worker in workers for case in worker.records]
    for number in range(-1, rounds):
        for worker, case in turns if number % 2 else turns[::-1]:
            record = worker.run(case)
            print(f"round {number}: {worker.peer.name} {case} {record['seconds']:.3f} s", file=sys.stderr)
            if number >= 0:
                worker.records[case].append(record)


def seconds(records: Sequence[dict[str, Any]]) -> list[float]:
    return [record["seconds"] for record in records]


def speedup(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """How many times our speed is theirs: the median over rounds, and from the minima."""
    a, b = seconds(ours), seconds(theirs)
    return statistics.median(y / x for x, y in zip(a, b, strict=True)), min(b) / min(a)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, the first to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    )
