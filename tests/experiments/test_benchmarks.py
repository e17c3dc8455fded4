"""The benchmarks start and print, without peers: what the numbers are is nobody's promise here."""

import sys

import pytest

from experiments.benchmarks import dpo_step, generation
from experiments.benchmarks.duel import Died, Peer, Worker, missing, speedup, start_all, table
from experiments.benchmarks.protocol import Task
from experiments.benchmarks.shapes import SMALL, Shape
from experiments.benchmarks.workers.gate import Gate


def test_the_shape_that_is_promised_about():
    shape = Shape()
    assert shape.parameters == 12_126_976
    assert shape.tokens == 4096
    assert shape.step_flops == pytest.approx(414e9, rel=0.01)  # of performance.md
    prompts, chosen, rejected = shape.preferences(3)
    assert prompts.shape == (8, 64)
    assert chosen.shape == rejected.shape == (8, 192)
    assert (shape.preferences(3)[1] == chosen).all()
    assert (shape.preferences(4)[1] != chosen).any()


def test_dpo_step_alone(capsys):
    assert dpo_step.main(dpo_step.Config(rounds=1, peers=(), small=True)) == {}
    said = capsys.readouterr().out
    assert "first loss: prefjax 0." in said
    assert "tokens/s" in said
    assert "over" not in said


def test_generation_alone(capsys):
    assert generation.main(generation.Config(rounds=1, peers=(), small=True)) == {}
    said = capsys.readouterr().out
    assert "prefjax greedy" in said
    assert "over" not in said


def test_a_peer_that_is_not_there_is_named_and_left_out(capsys):
    absent = Peer("somebody", "models", sys.executable, ("json", "no_such_module"))
    assert missing(absent) == ["no_such_module"]
    task = Task(SMALL, "", calls=1, options={})
    with pytest.raises(Died, match="no_such_module"):
        start_all([absent], task)  # the first is ours
    assert capsys.readouterr().out == ""


def test_a_worker_that_dies_says_its_last_words():
    peer = Peer("nobody", "no_such_worker", sys.executable, ())
    with pytest.raises(Died, match="no_such_worker"):
        Worker(peer, Task(SMALL, "", calls=1, options={}))


def test_ratios_are_taken_round_by_round():
    ours = [{"seconds": s} for s in (1.0, 2.0, 4.0)]
    theirs = [{"seconds": s} for s in (3.0, 8.0, 8.0)]
    assert speedup(ours, theirs) == (3.0, 3.0)
    assert table(["", "a"], [["row", "10"]]) == "      a\nrow  10"


def test_fields_of_a_variant():
    assert dpo_step.fields("remat=block,scan_layers=False") == {"remat": "block", "scan_layers": False}


def test_a_gate_lets_a_loop_through_one_step_at_a_time():
    steps = []

    def loop():
        for number in range(3):
            gate.wait()
            steps.append(number)
        raise RuntimeError("the loop is over")

    gate = Gate(loop)
    gate.start()
    assert steps == []
    gate.step()
    gate.step()
    assert steps == [0, 1]
    with pytest.raises(RuntimeError, match="over"):
        gate.step()
