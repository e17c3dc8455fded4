"""`experiments.align` as a user meets it: errors in one line, runs that resume to the same bits, plans, the README."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from experiments import dpo_bandit
from experiments.align import command_line
from experiments.export import opened_workdir
from experiments.runs import run
from experiments.settings import Config, as_flags, identity
from prefjax.checks import InputError
from prefjax.train import Metrics, NonFinite, read_metrics

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens" / "trl"
DPO = Config(
    algorithm="dpo", model=str(GOLDENS / "policy"), data=str(GOLDENS / "pairs.jsonl"), batch_size=8,
    learning_rate=1e-3, save_every=3, mesh="data=1",
)  # fmt: skip
NASH = Config(
    algorithm="nash_md", model=str(GOLDENS / "policy"), data=str(GOLDENS / "pairs.jsonl"),
    judge=str(GOLDENS / "reward"), batch_size=8, learning_rate=1e-3, save_every=2, max_new_tokens=8, mesh="data=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PREFJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def weights(workdir: Path) -> dict[str, bytes]:
    return {
        name: array.tobytes() for name, array in load_file(workdir / "policy" / "model.safetensors").items()
    }


@pytest.mark.parametrize("config", [DPO, NASH], ids=["dpo", "nash_md"])
def test_a_run_killed_between_saves_ends_with_the_same_bits(config, tmp_path, monkeypatch):
    run(replace(config, steps=7, workdir=str(tmp_path / "straight")))

    write, calls = Metrics.write, 0

    def dies(self, step, values):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt  # leaves at once, as a kill would: nothing is saved on the way out
        write(self, step, values)

    monkeypatch.setattr(Metrics, "write", dies)
    killed = replace(config, steps=7, workdir=str(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    monkeypatch.undo()
    run(killed)
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    both = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("killed", "straight")]
    assert [line["loss"] for line in both[0]] == [line["loss"] for line in both[1]]
    assert [line["step"] for line in both[0]] == list(range(1, 8))


def test_microbatches_and_meshes_give_the_same_losses(tmp_path):
    losses = []
    for name, given in {
        "whole": {"mesh": "data=1"},
        "micro": {"mesh": "data=1", "micro_batch_size": 2},
        "mesh": {"mesh": "data=2,fsdp=2", "micro_batch_size": 4},
    }.items():
        run(replace(DPO, steps=4, workdir=str(tmp_path / name), **given))
        losses.append([line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_step_zero_tells_the_truth(tmp_path):
    run(replace(DPO, steps=1, workdir=str(tmp_path / "dpo")))
    (line,) = read_metrics(tmp_path / "dpo" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(0.6931471805, abs=1e-6)
    run(replace(NASH, steps=1, workdir=str(tmp_path / "nash")))
    (line,) = read_metrics(tmp_path / "nash" / "metrics.jsonl")
    assert line["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert line["kl"] == pytest.approx(0.0, abs=1e-4)


def test_another_reference_is_not_mistaken_for_the_start(tmp_path):
    run(replace(DPO, steps=3, workdir=str(tmp_path / "first")))
    moved = str(tmp_path / "first" / "policy")
    run(replace(DPO, steps=1, model=moved, reference=DPO.model, workdir=str(tmp_path / "second")))
    (line,) = read_metrics(tmp_path / "second" / "metrics.jsonl")
    assert abs(line["loss"] - 0.6931471805) > 1e-3


def test_a_rate_that_explodes_stops_with_the_rows(tmp_path):
    with pytest.raises(NonFinite, match=r"first bad term.*pairs\.jsonl, lines"):
        run(replace(DPO, steps=8, learning_rate=1e30, clip_norm=0.0, workdir=str(tmp_path)))


def test_early_stopping_keeps_the_best_state(tmp_path):
    outcome = run(
        replace(
            DPO,
            steps=60,
            learning_rate=2e-2,
            eval_data=DPO.data,
            eval_every=5,
            patience=2,
            workdir=str(tmp_path),
        )
    )
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "eval_loss" in line]
    best = min(line["eval_loss"] for line in lines)
    assert outcome.summary["held_out_after"]["loss"] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm", "dpo", "--data", "x"], "--model: nothing"),
        (["--algorithm", "dpo", "--model", "x"], "--data: nothing"),
        (["--model", "x"], "--algorithm: nothing"),
        (["--plan"], "--algorithm: nothing"),
        (["--algorithm", "dpo", "--loss", "simgoid", "--model", "x", "--data", "y"], "sigmoid, sigmoid_norm, ipo"),
        (["--algorithm", "nash_md", "--model", "x", "--data", "y"], "--judge: nothing"),
        (["--beta", "-1"], "--beta"),
        (["--clip-norm", "-1"], "--clip-norm: -1.0; 0 or more"),
        (["--learning-rate", "nan"], "--learning-rate: nan; a finite number"),
        (["--seed", "99999999999999999999"], "--seed"),
        (["--algorithm", "dpo", "--model", str(GOLDENS / "policy"), "--data", "missing.jsonl"], "missing.jsonl"),
        (["--algorithm", "dpo", "--model", "nowhere", "--data", str(GOLDENS / "pairs.jsonl")], "nowhere"),
        (
            ["--algorithm", "dpo", "--model", str(GOLDENS / "policy"), "--data", str(GOLDENS / "sft.jsonl")],
            "sft.jsonl, line 1",
        ),
        (
            [
                "--algorithm", "dpo", "--model", str(GOLDENS / "policy"), "--data", str(GOLDENS / "pairs.jsonl"),
                "--mesh", "data=3",
            ],
            "multiple of 3",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command_line(flags)
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2
    assert said.splitlines()[-1].startswith("error: ")
    assert message in said
    assert "Traceback" not in said


def test_a_workdir_of_another_run_is_refused_and_fresh_starts_over(tmp_path):
    run(replace(DPO, steps=3, workdir=str(tmp_path)))
    with pytest.raises(InputError, match=r"beta was 0\.1, is 0\.5"):
        run(replace(DPO, steps=3, beta=0.5, workdir=str(tmp_path)))
    run(replace(DPO, steps=2, beta=0.5, fresh=True, workdir=str(tmp_path)))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert json.loads((tmp_path / "config.json").read_text())["identity"]["beta"] == 0.5


def test_a_directory_that_is_not_a_workdir_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not a workdir of an earlier run"):
        run(replace(DPO, steps=1, fresh=True, workdir=str(tmp_path)))
    assert (tmp_path / "config.json").read_text() == "{}"
    with pytest.raises(InputError, match="which is --model too"):
        run(replace(DPO, steps=1, workdir=DPO.model))


def test_a_second_run_is_kept_out_of_the_workdir(tmp_path):
    with opened_workdir(tmp_path, DPO, {}), pytest.raises(InputError, match="in use"):
        run(replace(DPO, steps=1, workdir=str(tmp_path)))


def test_ids_that_the_model_does_not_have_are_refused(tmp_path):
    small = tmp_path / "model"
    shutil.copytree(DPO.model, small)
    about = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**about, "vocab_size": 300}))
    with pytest.raises(InputError, match="ids below vocab_size, 300"):
        run(replace(DPO, steps=1, model=str(small), workdir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_judge_with_another_tokeniser_is_refused(tmp_path):
    judge = tmp_path / "judge"
    shutil.copytree(NASH.judge, judge)
    words = json.loads((judge / "tokenizer.json").read_text())
    words["added_tokens"][0]["lstrip"] = True
    (judge / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(InputError, match="--judge: the tokeniser"):
        run(replace(NASH, steps=1, judge=str(judge), workdir=str(tmp_path / "run")))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(replace(DPO, steps=3, workdir=str(tmp_path)))
    for path in (tmp_path / "checkpoints" / "3").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoints/3: the checkpoint cannot be restored"):
        run(replace(DPO, steps=6, workdir=str(tmp_path)))


def test_a_setting_that_an_algorithm_does_not_read_is_not_part_of_its_run():
    other = replace(DPO, mixture_coef=0.5, preference_form="joint", num_samples=3, gold="majority")
    assert identity(other) == identity(DPO)
    assert identity(replace(DPO, beta=0.2)) != identity(DPO)
    assert identity(replace(NASH, mixture_coef=0.5)) != identity(NASH)
    assert identity(replace(DPO, algorithm=None, gold="majority")) != identity(replace(DPO, algorithm=None))


def test_advice_names_flags():
    assert as_flags('load with bad="skip"') == "load with --bad-rows skip"
    assert (
        as_flags('Raise max_length, or choose overlong="skip"')
        == "Raise --max-length, or choose --overlong skip"
    )


def test_best_of_n_writes_completions(tmp_path):
    run(replace(NASH, algorithm="best_of_n", num_samples=3, workdir=str(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    prompts = [json.loads(line)["prompt"] for line in (GOLDENS / "pairs.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == prompts


def test_a_plan_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(replace(DPO, plan=True, chip="h100", mesh="data=2,fsdp=2"))
    said = capsys.readouterr().out
    assert "4 x h100" in said
    assert re.search(r"all-reduce +\d+ in the program", said)
    assert not (tmp_path / "runs").exists()


def test_dpo_reaches_the_optimum_it_promises():
    assert dpo_bandit.main(dpo_bandit.Config()) < 0.04


def test_the_readme_says_what_its_loss_prints(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(program, {})
    printed = capsys.readouterr().out.strip()
    assert f"# {printed}" in program
