"""--packing: the losses of a run are those of the same units one by one."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.inputs import read_input, row_batches
from experiments.runs import optimizer_of, run, with_defaults
from experiments.settings import Config
from prefjax.align import PAIRED_LOSSES, add_mean_length, add_reference, paired_objective, sft_objective
from prefjax.checks import InputError
from prefjax.data import batches
from prefjax.policy import load_huggingface
from prefjax.train import copied, init_state, make_mesh, make_step, place, read_metrics

GOLDENS = Path(__file__).parents[1] / "goldens" / "trl"
SFT = Config(
    algorithm="sft", model=str(GOLDENS / "policy"), data=str(GOLDENS / "sft.jsonl"), batch_size=2, steps=3,
    learning_rate=1e-2, mesh="data=1", packing=True, max_length=256,
)  # fmt: skip
DPO = replace(SFT, algorithm="dpo", data=str(GOLDENS / "pairs.jsonl"), learning_rate=1e-3)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PREFJAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def one_by_one(config: Config) -> list[dict]:
    """The run again, its units in rows of their own: as many as a step could have, some of weight 0."""
    config = with_defaults(config)
    rows = read_input(config).rows
    source = batches(rows.tokens, batch_size=len(rows.tokens.lines), shuffle=False)
    everything = next(source)
    source.close()
    data = row_batches(config, rows)
    policy, params = load_huggingface(config.model)
    longest, mesh = rows.tokens.longest_completion(), make_mesh()
    if config.algorithm == "sft":
        objective = sft_objective(policy, max_completion=longest)
    else:
        paired = PAIRED_LOSSES[config.which_loss]
        objective = paired_objective(policy, paired, beta=config.price, max_completion=longest)
    add = jax.jit(add_reference(policy, max_completion=longest))
    reference = jax.tree.map(jnp.copy, params)
    optimizer, _ = optimizer_of(config)
    state = init_state(params, optimizer, jax.random.key(0))
    step = make_step(objective, optimizer, copied(state, mesh), mesh)
    measured = []
    for _ in range(config.steps):
        index = next(data)["index"].reshape(-1)
        batch = jax.tree.map(lambda leaf, index=index: leaf[np.maximum(index, 0)], everything)
        batch = place({**batch, "index": index, "weight": (index >= 0).astype(np.float32)}, mesh, 1)
        if config.algorithm == "dpo":
            batch = add(reference, add_mean_length(batch) if paired.likelihood else batch)
        state, means = step(state, batch)
        measured.append({name: float(value) for name, value in means.items()})
    data.close()
    return measured


@pytest.mark.parametrize(
    "config",
    [SFT, DPO, pytest.param(replace(DPO, loss="rpo"), marks=pytest.mark.slow)],
    ids=["sft", "dpo", "rpo"],
)
def test_every_step_is_that_of_its_units_one_by_one(config, tmp_path):
    run(replace(config, workdir=str(tmp_path)))
    lines, want = read_metrics(tmp_path / "metrics.jsonl"), one_by_one(config)
    assert len(lines) == len(want) == 3
    for line, means in zip(lines, want, strict=True):
        for name, value in means.items():
            assert line[name] == pytest.approx(value, rel=1e-5, abs=1e-5), (line["step"], name)


def test_packing_where_rows_cannot_share_one(tmp_path):
    for algorithm in ("kto", "reward", "preference", "grpo"):
        with pytest.raises(InputError, match=f"--packing: {algorithm}"):
            run(replace(DPO, algorithm=algorithm, judge=str(GOLDENS / "reward"), workdir=str(tmp_path)))
    with pytest.raises(InputError, match=r"pairs\.jsonl, line \d+"):
        run(replace(DPO, max_length=24, overlong="skip", workdir=str(tmp_path)))
    assert not any(tmp_path.iterdir())
