"""Runs that train adapters: the base is the reference, only adapters move, and what is written PEFT would write."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.runs import run
from experiments.settings import Config, lora_of
from prefjax.checks import InputError
from prefjax.policy import LORA_TARGETS, LoraConfig, load_huggingface, load_peft, merge_adapters
from prefjax.train import Metrics, read_metrics

GOLDENS = Path(__file__).parents[1] / "goldens" / "trl"
DPO = Config(
    algorithm="dpo", model=str(GOLDENS / "policy"), data=str(GOLDENS / "pairs.jsonl"), batch_size=8,
    learning_rate=1e-2, weight_decay=0.1, save_every=2, steps=5, mesh="data=1",
    lora_rank=2, lora_alpha=4.0, lora_targets="q_proj,down_proj", lora_layers="1",
)  # fmt: skip
NAMES = {
    f"base_model.model.model.layers.1.{part}.lora_{side}.weight"
    for part in ("self_attn.q_proj", "mlp.down_proj")
    for side in "AB"
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PREFJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("adapters") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run(replace(DPO, workdir=str(workdir)))
    return workdir


def weights(path: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(path).items()}


def test_step_one_is_the_base_against_itself(straight):
    lines = read_metrics(straight / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.6931471805, abs=1e-6)
    assert lines[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert lines[-1]["loss"] < 0.69
    assert lines[-1]["rewards/margins"] > 0


def test_only_chosen_layers_move_and_are_written(straight):
    before, after = (
        weights(GOLDENS / "policy" / "model.safetensors"),
        weights(straight / "policy" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"}
    adapters = load_file(straight / "adapter" / "adapter_model.safetensors")
    assert adapters.keys() == NAMES
    assert all(array.any() for array in adapters.values())


def test_the_adapter_on_the_base_is_the_merged_policy(straight):
    policy, params = load_peft(straight / "adapter", *load_huggingface(DPO.model))
    assert policy.config.lora == LoraConfig(2, 4.0, ("q_proj", "down_proj"), (1,))
    _, merged = merge_adapters(policy, params)
    _, written = load_huggingface(straight / "policy")
    for part in ("self_attn", "mlp"):
        for name, leaf in merged["model"]["layers"][part].items():
            np.testing.assert_allclose(
                leaf["weight"], written["model"]["layers"][part][name]["weight"], atol=1e-6
            )
    about = json.loads((straight / "adapter" / "adapter_config.json").read_text())
    assert Path(about["base_model_name_or_path"]) == Path(DPO.model).resolve()
    assert (straight / "adapter" / "tokenizer.json").is_file()


def test_killed_between_saves_it_ends_with_the_same_bits(straight, tmp_path, monkeypatch):
    write, calls = Metrics.write, 0

    def dies(self, step, values):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        write(self, step, values)

    monkeypatch.setattr(Metrics, "write", dies)
    config = replace(DPO, workdir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(Metrics, "write", write)
    run(config)
    for file in ("policy/model.safetensors", "adapter/adapter_model.safetensors"):
        assert weights(tmp_path / file) == weights(straight / file)
    # What a checkpoint holds is small: adapters and their two moments, not the base.
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoints" / "4").rglob("*") if path.is_file())
    assert size < 100_000


def test_another_export_of_the_finished_run(straight):
    """Each form replaces what the others left, or transformers would read both together."""
    merged = weights(straight / "policy" / "model.safetensors")
    alone = weights(straight / "adapter" / "adapter_model.safetensors")

    def exported(form):
        run(replace(DPO, lora_export=form, workdir=str(straight)))
        return {path.name for path in (straight / "policy").iterdir()}, (straight / "adapter").exists()

    there, beside = exported("merged")
    assert not beside
    assert not any(name.startswith("adapter") for name in there)
    assert weights(straight / "policy" / "model.safetensors") == merged
    there, beside = exported("adapter")
    assert not beside
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= there
    assert not {"model.safetensors", "config.json"} & there
    assert weights(straight / "policy" / "adapter_model.safetensors") == alone
    there, beside = exported("both")
    assert beside
    assert "model.safetensors" in there
    assert not any(name.startswith("adapter") for name in there)


def test_a_reference_of_its_own(straight, tmp_path):
    """The base as --reference by another path starts where policy = reference; a trained one does not."""
    same = tmp_path / "same"
    same.symlink_to(Path(DPO.model).resolve())
    losses = []
    for name, reference in {"same": same, "trained": straight / "policy"}.items():
        run(replace(DPO, steps=1, reference=str(reference), workdir=str(tmp_path / f"run-{name}")))
        losses.append(read_metrics(tmp_path / f"run-{name}" / "metrics.jsonl")[0])
    assert losses[0]["loss"] == pytest.approx(0.6931471805, abs=1e-6)
    assert losses[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert abs(losses[1]["rewards/margins"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["reward", "preference"])
def test_a_score_head_is_trained_beside_the_adapters(algorithm, tmp_path):
    run(replace(DPO, algorithm=algorithm, steps=2, workdir=str(tmp_path)))
    adapters = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert adapters.keys() == {*NAMES, "base_model.model.score.weight"}
    merged = load_file(tmp_path / "policy" / "model.safetensors")
    np.testing.assert_array_equal(adapters["base_model.model.score.weight"], merged["score.weight"])


def test_flags():
    assert lora_of(Config()) is None
    assert lora_of(Config(lora_rank=4)) == LoraConfig(4, 32.0, ("q_proj", "v_proj"))
    given = Config(lora_rank=4, lora_alpha=8.0, lora_targets="all-linear", lora_layers="0, 4-6,5")
    assert lora_of(given) == LoraConfig(4, 8.0, LORA_TARGETS, (0, 4, 5, 6))
    for flags, message in (
        ({"lora_targets": "query"}, "--lora-targets"),
        ({"lora_layers": "a"}, "--lora-layers"),
        ({"lora_layers": "7-4"}, "--lora-layers"),  # not: no layer named, so all of them
        ({"lora_layers": "-1"}, "--lora-layers"),
    ):
        with pytest.raises(InputError, match=message):
            lora_of(Config(lora_rank=4, **flags))


def test_a_block_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="blocks 0 to 1"):
        run(replace(DPO, lora_layers="2", workdir=str(tmp_path)))
