"""A run is its state: killed on any step, it ends with the same bits; and what stops it says why."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.train import NonFinite, read_metrics
from prefjax.types import Weighted
from tests.train.toy_run import Rows, digest, objective, run

SCRIPT = [sys.executable, "-m", "tests.train.toy_run"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    return digest(run(workdir, 10, Rows()).state), read_metrics(workdir / "metrics.jsonl")


@pytest.mark.parametrize("kill_at", range(10))
def test_stopped_before_any_step_and_resumed(tmp_path, straight, kill_at):
    class Dies(Rows):
        def __next__(self):
            if self.position == kill_at:
                raise KeyboardInterrupt  # leaves at once: nothing is saved on the way out
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 10, Dies())
    assert digest(run(tmp_path, 10, Rows()).state) == straight[0]
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["loss"] for line in lines] == [line["loss"] for line in straight[1]]


def test_sigkill_then_resume(tmp_path, straight):
    killed = subprocess.run([*SCRIPT, tmp_path, "10", "8"], cwd=ROOT, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert digest(run(tmp_path, 10, Rows()).state) == straight[0]


def test_a_save_cut_short_is_not_a_checkpoint(tmp_path, straight):
    run(tmp_path, 6, Rows())
    whole = tmp_path / "checkpoints" / "6"
    half = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_bytes((next(whole.rglob("manifest.ocdbt"))).read_bytes()[:10])
    assert digest(run(tmp_path, 10, Rows()).state) == straight[0]


def test_more_steps_continue_the_run(tmp_path, straight):
    run(tmp_path, 4, Rows())
    assert digest(run(tmp_path, 10, Rows()).state) == straight[0]


def test_resume_on_another_mesh(tmp_path):
    reference = run(tmp_path / "a", 10, Rows()).state
    run(tmp_path / "b", 5, Rows(), "data=4")
    moved = run(tmp_path / "b", 10, Rows(), "data=2").state
    np.testing.assert_allclose(moved.params["w"], reference.params["w"], atol=1e-5)


def test_sigterm_saves_and_stops(tmp_path, straight):
    process = subprocess.Popen(
        [*SCRIPT, tmp_path, "1000000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ), text=True,
    )  # fmt: skip
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.time() + 90
    while time.time() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command resumes" in err
    last = read_metrics(metrics)[-1]["step"]
    assert (tmp_path / "checkpoints" / str(last)).exists()


def test_another_run_is_refused_by_name(tmp_path):
    run(tmp_path, 3, Rows(), identity={"data": "one", "beta": 0.1})
    with pytest.raises(InputError, match=r"beta was 0.1, is 0.2") as error:
        run(tmp_path, 6, Rows(), identity={"data": "one", "beta": 0.2})
    assert "--fresh" in str(error.value)


def test_nan_stops_with_step_rows_and_first_bad_term(tmp_path):
    def breaks(params, batch, key):
        bad = jnp.where(jnp.any(batch["index"] == 35), jnp.nan, 0.0)  # a row of the fourth batch
        return {
            "logps": Weighted.of(batch["x"][:, 0]),
            "margin": Weighted.of(params["w"][0] + bad),
            **objective(params, batch, key),
        }

    with pytest.raises(NonFinite) as error:
        run(tmp_path, 10, Rows(), objective=breaks)
    message = str(error.value)
    assert "step 4: margin is nan" in message
    assert "35" in message.split("Rows of the batch:")[1]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["3"]
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl"))


def test_a_half_written_metrics_line_is_dropped_on_resume(tmp_path):
    run(tmp_path, 5, Rows())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "loss": 1.0}) + "\n" + '{"step": 7, "lo')
    run(tmp_path, 8, Rows())
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 9))
