"""Devices, processes, memory and precision decide where a run computes, not what."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.loading import load, load_trained
from experiments.problems import Problem
from experiments.runs import optimizer_of, run, state_shapes, with_defaults
from experiments.settings import Config
from prefjax.policy import PARTITION, tensor_files
from prefjax.train import init_state, make_mesh, parse_mesh, read_metrics, spread
from tests.train.processes import finished, printed, started

GOLDENS = Path(__file__).parents[1] / "goldens" / "trl"
DPO = Config(
    algorithm="dpo", model=str(GOLDENS / "policy"), data=str(GOLDENS / "pairs.jsonl"), batch_size=8, steps=3,
    learning_rate=1e-3, mesh="data=1",
)  # fmt: skip
RUNS = {
    "dpo": DPO,
    "sft": replace(DPO, algorithm="sft", data=str(GOLDENS / "sft.jsonl")),
    "lora": replace(DPO, lora_rank=4, lora_targets="all-linear"),
    "grpo": replace(
        DPO, algorithm="grpo", judge=str(GOLDENS / "reward"), max_new_tokens=6, num_samples=4, beta=0.05
    ),
}
MESHES = ("data=2", "fsdp=2", "tensor=2", "data=2,fsdp=2,tensor=2", "fsdp=4,tensor=2")
# The others by -m slow: every run compiles for eight devices.
PLAIN = {("lora", "data=2,fsdp=2,tensor=2")}
REWARDS = """
def vowels(prompts, completions, completion_ids, **columns):
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in completions]

def short(completions, **columns):
    return [None if len(text) % 5 == 4 else -0.1 * len(text) for text in completions]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield tmp_path_factory.mktemp("meshes")


def lines_of(config: Config, workdir: Path) -> list[dict]:
    """The metrics of a run, made once."""
    if not (workdir / "report.json").exists():
        run(replace(config, workdir=str(workdir)))
    return read_metrics(workdir / "metrics.jsonl")


def assert_same_losses(got, want, tolerance):
    assert [line["step"] for line in got] == [line["step"] for line in want]
    for line, wanted in zip(got, want, strict=True):
        assert line["loss"] == pytest.approx(wanted["loss"], abs=tolerance), line["step"]
        assert line["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-2), line["step"]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        pytest.param(name, mesh, marks=() if (name, mesh) in PLAIN else pytest.mark.slow)
        for name in RUNS
        for mesh in MESHES
    ],
)
def test_every_step_on_every_mesh(name, mesh, home):
    want = lines_of(RUNS[name], home / name)
    assert_same_losses(lines_of(replace(RUNS[name], mesh=mesh), home / f"{name}-{mesh}"), want, 1e-4)


@pytest.mark.parametrize("mesh", ["fsdp=4,tensor=2", "tensor=8"])
@pytest.mark.parametrize("name", ["dpo", "lora"])
def test_no_device_ever_holds_a_large_matrix(name, mesh, monkeypatch):
    """Parameters are read in parts, and they, what is frozen, and the optimiser's state stay in parts."""
    reads = []
    read = tensor_files.StoredTensor.read

    def noted(self, index):
        part = read(self, index)
        reads.append((part.size, math.prod(self.shape)))
        return part

    monkeypatch.setattr(tensor_files.StoredTensor, "read", noted)
    config, on = with_defaults(RUNS[name]), make_mesh(**parse_mesh(mesh))
    model = load_trained(config, on)
    _, frozen = load(replace(config, dtype="bfloat16"), config.model, on, frozen=True)
    optimizer, _ = optimizer_of(config)
    problem = Problem(model, lambda *_: None)
    placed = spread(state_shapes(config, problem, optimizer), on, PARTITION)
    born = jax.jit(init_state, static_argnums=1, out_shardings=placed)
    state = born(model.trained, optimizer, jax.random.key(0))
    large = 0
    for tree in (model.trained, model.fixed, frozen, state.params, state.opt_state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            # 512 entries a block and more: all matrices of this model, not norms, not adapters.
            whole = math.prod(leaf.shape[-2:])
            if leaf.ndim >= 2 and whole >= 512:
                large += 1
                assert len(leaf.addressable_shards) == 8
                for shard in leaf.addressable_shards:
                    assert shard.data.size == leaf.size // 8, jax.tree_util.keystr(path)
    # 9 matrices: of the model and frozen, and what is trained also in the state, with two moments.
    assert large == (2 * 9 if model.fixed else 5 * 9)
    assert all(part <= whole // 8 for part, whole in reads if whole >= 512)


@pytest.fixture(scope="module")
def rewards(home):
    (home / "rewards.py").write_text(REWARDS)
    return home / "rewards.py"


def test_two_processes_score_their_own_rows(home, rewards):
    """GRPO with adapters and rewards by functions: one process, and two with half of the rows each."""
    base = RUNS["grpo"]
    job = [
        "--algorithm", "grpo", "--model", base.model, "--data", base.data, "--batch-size", 8, "--steps", 3,
        "--learning-rate", 1e-2, "--max-new-tokens", 6, "--num-samples", 4, "--beta", 0.05, "--lora-rank", 2,
        "--reward-funcs", f"{rewards}:vowels,{rewards}:short",
    ]  # fmt: skip
    jobs = {}
    for number in (1, 2):
        workdir = home / f"{number}-processes"
        logs = workdir.with_name(f"{number}-logs")
        arguments = [*job, "--mesh", f"data={number}", "--workdir", workdir]
        jobs[number] = workdir, logs, started(number, arguments, logs, PREFJAX_CACHE=str(home / "prepared"))
    with jobs[1][2] as alone, jobs[2][2] as together:
        assert finished(together, jobs[2][1], timeout=280) == [0, 0], printed(jobs[2][1])
        assert finished(alone, jobs[1][1], timeout=280) == [0], printed(jobs[1][1])
    want, got = (read_metrics(jobs[number][0] / "metrics.jsonl") for number in (1, 2))
    assert_same_losses(got, want, 1e-4)
    for line, wanted in zip(got, want, strict=True):
        assert line.keys() == wanted.keys()
        # Of all rows, not of those of the process that writes.
        for name in ("rewards/vowels/mean", "rewards/vowels/std"):
            assert line[name] == pytest.approx(wanted[name], abs=1e-5)
    assert wanted["rewards/vowels/std"] > 0


@pytest.mark.slow  # of one step: tests/train/test_step.py
@pytest.mark.parametrize(
    "how",
    [
        {"remat": "none"},
        {"remat": "block"},
        {"remat": "none", "scan_layers": False},
        {"remat": "dots", "scan_layers": False},
        {"remat": "block", "scan_layers": False},
    ],
    ids=str,
)
def test_what_is_made_again_and_how_blocks_are_compiled(how, home):
    name = "-".join(map(str, how.values()))
    assert_same_losses(lines_of(replace(DPO, **how), home / name), lines_of(DPO, home / "dpo"), 1e-6)


@pytest.mark.parametrize("name", ["lora", pytest.param("dpo", marks=pytest.mark.slow)])
def test_bfloat16_over_float32_masters(name, home):
    config = replace(RUNS[name], dtype="bfloat16")
    assert_same_losses_roughly(lines_of(config, home / f"{name}-half"), lines_of(RUNS[name], home / name))
    model = load_trained(with_defaults(config), make_mesh())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model.trained))
    # What no gradient is taken of is held in the dtype that it is computed with; norms are not.
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.fixed):
        wanted = jnp.float32 if "norm" in jax.tree_util.keystr(path) else jnp.bfloat16
        assert leaf.dtype == wanted


def assert_same_losses_roughly(got, want):
    np.testing.assert_allclose([line["loss"] for line in got], [line["loss"] for line in want], atol=2e-2)
