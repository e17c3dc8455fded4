"""Several processes of one run, on this machine: started together, waited for together, none left behind."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def started(
    number: int, arguments: Sequence[object], logs: Path, **environment: str
) -> Iterator[list[subprocess.Popen]]:
    """`python -m experiments.align ARGUMENTS` in `number` processes of one CPU device each.

    Their output is in `logs`, a file each. Those that still run on leaving are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    logs.mkdir(parents=True, exist_ok=True)
    # One device a process, and no trace of how the tests themselves were started.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    processes = []
    try:
        for index in range(number):
            together = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(number),
                "JAX_PROCESS_ID": str(index),
            }
            with (logs / f"{index}.txt").open("w") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "experiments.align", *map(str, arguments)],
                    cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                    env={**inherited, "JAX_PLATFORMS": "cpu", **(together if number > 1 else {}), **environment},
                )  # fmt: skip
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def finished(processes: Sequence[subprocess.Popen], logs: Path, *, timeout: float = 200) -> list[int]:
    """Exit statuses, once all have ended; says what they printed if they do not."""
    deadline = time.monotonic() + timeout
    while any(process.poll() is None for process in processes):
        # One that failed leaves the others waiting for it.
        if any(process.poll() not in (None, 0) for process in processes):
            deadline = min(deadline, time.monotonic() + 30)
        if time.monotonic() > deadline:
            raise AssertionError(f"processes still run; they printed\n{printed(logs)}")
        time.sleep(0.05)
    return [process.returncode for process in processes]


def printed(logs: Path) -> str:
    return "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in sorted(logs.iterdir()))


def rewound(workdir: Path, step: int, to: Path) -> Path:
    """A copy of a run as it was when the checkpoint of `step` was its newest."""
    shutil.copytree(workdir, to)
    for checkpoint in (to / "checkpoints").iterdir():
        if checkpoint.name.isdigit() and int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return to
