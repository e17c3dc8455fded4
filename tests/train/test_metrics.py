"""What is written where: the file always whole, TensorBoard beside it, others when asked, none able to end a run."""

import importlib.util
import struct
import sys
from types import SimpleNamespace

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event

from prefjax.checks import InputError
from prefjax.train import Metrics, read_metrics
from prefjax.train.metrics import Tracker, trackers_of, wandb_run


def events(directory):
    """What TensorBoard would read: (step, name, value), and where a start tells it to forget."""
    found = []
    for path in sorted(directory.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            found += [(event.step, "restart", 0.0)] if event.HasField("session_log") else []
    return found


class Wandb(SimpleNamespace):
    """A stand-in for the package: remembers what it was told."""

    def __init__(self, fails=()):
        super().__init__(started=[], logged=[], finished=[], fails=fails)

    def init(self, **settings):
        if "init" in self.fails:
            raise RuntimeError("No API key configured")
        self.started.append(settings)
        last = max((step for step, _ in self.logged), default=-1)

        def log(values, step):
            if "log" in self.fails:
                raise ConnectionError("no network")
            self.logged.append((step, values))

        def finish(exit_code):
            self.finished.append(exit_code)
            if "finish" in self.fails:
                raise BrokenPipeError("gone")

        return SimpleNamespace(id=settings["id"] or "made-up", step=last + 1, log=log, finish=finish)


@pytest.fixture
def wandb(monkeypatch):
    package = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def test_file_and_tensorboard_without_asking(tmp_path):
    metrics = Metrics(tmp_path / "run")
    metrics.rewind(0)
    metrics.write(1, {"loss": 0.5, "rewards/chosen": 1.0})
    metrics.write(2, {"loss": 0.25})
    metrics.close()
    assert read_metrics(metrics.path) == [
        {"step": 1, "loss": 0.5, "rewards/chosen": 1.0},
        {"step": 2, "loss": 0.25},
    ]
    assert events(tmp_path / "run" / "tensorboard") == [
        (1, "loss", 0.5),
        (1, "rewards/chosen", 1.0),
        (2, "loss", 0.25),
    ]


def test_nothing_is_made_before_the_first_number(tmp_path):
    Metrics(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_takes_back_what_it_will_say_again(tmp_path):
    for start in (0, 1):
        metrics = Metrics(tmp_path)
        metrics.rewind(start)
        for step in range(start + 1, 4):
            metrics.write(step, {"loss": float(step)})
        metrics.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert (2, "restart", 0.0) in events(tmp_path / "tensorboard")


def test_wandb_gets_project_name_config_and_every_number(tmp_path, wandb):
    metrics = Metrics(
        tmp_path, trackers=trackers_of("wandb", project="mine", name="dpo", config={"beta": 0.1})
    )
    metrics.write(1, {"loss": 0.5})
    metrics.write(1, {"eval_loss": 0.75})  # validation at the same step
    metrics.close()
    assert wandb.started == [
        {
            "project": "mine",
            "name": "dpo",
            "config": {"beta": 0.1},
            "dir": str(tmp_path),
            "id": None,
            "resume": "allow",
        }
    ]
    assert wandb.logged == [(1, {"loss": 0.5}), (1, {"eval_loss": 0.75})]
    assert wandb.finished == [0]


def test_wandb_goes_on_in_the_same_run(tmp_path, wandb):
    for start in (0, 2):
        metrics = Metrics(tmp_path, trackers=(wandb_run(),))
        metrics.rewind(start)
        for step in range(start + 1, 5):
            metrics.write(step, {"loss": float(step)})
        metrics.close()
    assert [settings["id"] for settings in wandb.started] == [None, "made-up"]
    assert [step for step, _ in wandb.logged] == [1, 2, 3, 4]  # 3 and 4 are not sent twice


def test_wandb_hears_that_a_run_failed(tmp_path, wandb):
    metrics = Metrics(tmp_path, trackers=(wandb_run(),))

    def run():
        try:
            raise ZeroDivisionError
        finally:
            metrics.close()

    with pytest.raises(ZeroDivisionError):
        run()
    assert wandb.finished == [1]


@pytest.mark.parametrize("fails", [["log"], ["finish"], ["log", "finish"]])
def test_a_tracker_that_fails_is_reported_once_and_ends_nothing(tmp_path, wandb, fails, capsys):
    wandb.fails = fails
    metrics = Metrics(tmp_path, trackers=(wandb_run(),))
    for step in (1, 2, 3):
        metrics.write(step, {"loss": 1.0})
    metrics.close()
    said = capsys.readouterr().err
    assert said.count("A tracker failed") == 1
    assert "metrics.jsonl" in said
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
    assert len(events(tmp_path / "tensorboard")) == 3


def test_a_tracker_that_comes_back_is_told_again(tmp_path, wandb):
    metrics = Metrics(tmp_path, trackers=(wandb_run(),))
    wandb.fails = ["log"]
    metrics.write(1, {"loss": 1.0})
    wandb.fails = []
    metrics.write(2, {"loss": 1.0})
    assert [step for step, _ in wandb.logged] == [2]


def test_wandb_that_cannot_start_is_an_error_before_the_run(tmp_path, wandb):
    wandb.fails = ["init"]
    with pytest.raises(InputError, match=r"No API key.*wandb login.*WANDB_MODE=offline"):
        Metrics(tmp_path, trackers=(wandb_run(),))


def test_wandb_not_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    with pytest.raises(InputError, match="pip install wandb"):
        trackers_of("wandb")


def test_report_to(wandb):
    assert trackers_of("") == trackers_of("tensorboard") == ()
    assert len(trackers_of("tensorboard, wandb")) == 1
    with pytest.raises(InputError, match="mlflow"):
        trackers_of("mlflow")


def test_only_the_first_process_writes(tmp_path, monkeypatch, wandb):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    metrics = Metrics(tmp_path / "run", trackers=(wandb_run(),))
    metrics.rewind(0)
    metrics.write(1, {"loss": 1.0})
    metrics.close()
    assert not (tmp_path / "run").exists()
    assert wandb.started == []


def test_any_three_functions_are_a_tracker(tmp_path):
    said = []

    def opened(directory):
        return Tracker(
            lambda step, values: said.append((step, values)), said.append, lambda: said.append("closed")
        )

    metrics = Metrics(tmp_path, trackers=(opened,))
    metrics.rewind(4)
    metrics.write(5, {"loss": 1.0})
    metrics.close()
    metrics.close()  # a second time is nothing
    assert said == [4, (5, {"loss": 1.0}), "closed"]
