"""The main job in several processes is the main job: the same numbers, checkpoints that fit, one end for all."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from prefjax.train import read_metrics
from tests.train.processes import ROOT, finished, printed, rewound, started

GOLDENS = ROOT / "tests" / "goldens" / "trl"
JOB = [
    "--algorithm", "dpo", "--model", GOLDENS / "policy", "--data", GOLDENS / "pairs.jsonl",
    "--batch-size", 8, "--learning-rate", 1e-3, "--save-every", 3,
]  # fmt: skip


def job(number: int, workdir: Path, home: Path, *, steps: int = 6, mesh: str):
    logs = workdir.with_name(f"{workdir.name}-logs")
    arguments = [*JOB, "--steps", steps, "--mesh", mesh, "--workdir", workdir]
    # Programs that an earlier job of this file compiled are found again.
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return logs, started(number, arguments, logs, PREFJAX_CACHE=str(home / "prepared"), **compiled)


def run_job(number: int, workdir: Path, home: Path, *, mesh: str) -> Path:
    logs, running = job(number, workdir, home, mesh=mesh)
    with running as processes:
        assert finished(processes, logs) == [0] * number, printed(logs)
    return workdir


def assert_same_run(workdir: Path, other: Path) -> None:
    """Every number of every step, and the policy that came of them."""
    lines, expected = (read_metrics(path / "metrics.jsonl") for path in (workdir, other))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line, wanted in zip(lines, expected, strict=True):
        assert line.keys() == wanted.keys()
        assert line["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
        # Where policy = reference margins are 0 up to rounding, whose signs are nobody's.
        undecided = {"rewards/accuracies"} if line["step"] == 1 else set()
        for name in line.keys() - {"seconds"} - undecided:
            assert line[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-4), (line["step"], name)
    weights, wanted = (load_file(path / "policy" / "model.safetensors") for path in (workdir, other))
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        # Where a gradient is all but 0, the first steps of Adam are of the size of the rate whatever its size.
        np.testing.assert_allclose(weight, wanted[name], atol=1e-4, err_msg=name)


def written_by(workdir: Path, step: int) -> set[str]:
    """The processes that wrote arrays of a checkpoint, as Orbax names them."""
    state = workdir / "checkpoints" / str(step) / "state"
    return {path.name for path in state.glob("ocdbt.process_*") if any((path / "d").iterdir())}


BOTH = {"ocdbt.process_0", "ocdbt.process_1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def runs(home):
    """One process, and two with half of each batch; all three want the same prepared data at once."""
    workdirs = home / "one", home / "two"
    one_logs, one = job(1, workdirs[0], home, mesh="data=1")
    two_logs, two = job(2, workdirs[1], home, mesh="data=2")
    with one as alone, two as together:
        assert finished(together, two_logs) == [0, 0], printed(two_logs)
        assert finished(alone, one_logs) == [0], printed(one_logs)
    return workdirs


def test_two_processes_are_one_run(runs, home):
    one, two = runs
    assert_same_run(two, one)
    assert written_by(two, 6) == BOTH
    assert len(list((home / "prepared").iterdir())) == 1  # one of the three won, nothing lies about
    reports = [path.read_text() for path in (home / "two-logs").iterdir() if "| loss" in path.read_text()]
    assert len(reports) == 1  # one of the two speaks


def test_two_processes_began_and_one_ends_it(runs, home):
    one, two = runs
    assert_same_run(run_job(1, rewound(two, 3, home / "then-one"), home, mesh="data=1"), one)


def test_one_process_began_and_two_that_share_the_parameters_end_it(runs, home):
    one, _ = runs
    shared = run_job(2, rewound(one, 3, home / "then-two"), home, mesh="fsdp=2")
    assert_same_run(shared, one)
    assert written_by(shared, 6) == BOTH


def test_sigterm_to_one_process_stops_both_saved(runs, home):
    workdir = rewound(runs[1], 6, home / "stopped")
    logs, running = job(2, workdir, home, steps=1_000_000, mesh="data=2")
    with running as processes:
        deadline = time.monotonic() + 120
        while len(read_metrics(workdir / "metrics.jsonl")) < 8:
            assert time.monotonic() < deadline, printed(logs)
            assert [process.poll() for process in processes] == [None, None], printed(logs)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        assert finished(processes, logs) == [128 + signal.SIGTERM] * 2, printed(logs)
    last = read_metrics(workdir / "metrics.jsonl")[-1]["step"]
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == last
    assert written_by(workdir, last) == BOTH
