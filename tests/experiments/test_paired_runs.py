"""`--algorithm dpo` with losses and flags that need more than two sums a pair."""

import json
import math
from pathlib import Path

import pytest

from experiments.runs import run
from experiments.settings import Config, check_settings, settings_of
from prefjax.align import PAIRED_LOSSES
from prefjax.checks import InputError
from prefjax.train import read_metrics

GOLDENS = Path(__file__).parents[1] / "goldens" / "trl"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A command on the first rows of a committed file, each with two win rates."""
    monkeypatch.setenv("PREFJAX_CACHE", str(tmp_path / "cache"))
    rows = [json.loads(line) for line in (GOLDENS / "pairs.jsonl").read_text().splitlines()[:8]]
    rows = [
        {**row, "chosen_win_rate": 0.9 - 0.01 * i, "rejected_win_rate": 0.3} for i, row in enumerate(rows)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(**flags):
        return Config(
            algorithm="dpo", model=str(GOLDENS / "policy"), data=str(data), steps=2, batch_size=4,
            micro_batch_size=2, learning_rate=1e-3, max_length=48, mesh="data=1",
            workdir=str(tmp_path / "run"), fresh=True, **flags,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "dno", "ld_alpha": 0.5, "use_weighting": True, "f_divergence": "alpha", "f_alpha": 0.3},
        {"loss": "dynamic_beta", "loss_settings": "alpha=0.9"},
        {"loss": "tdpo2"},
    ],
    ids=["dno", "dynamic_beta", "tdpo2"],
)
def test_a_run(config, flags):
    outcome = run(config(**flags))
    first, second = read_metrics(outcome.workdir / "metrics.jsonl")
    if "use_weighting" not in flags:
        assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert second["loss"] != first["loss"]


def test_without_its_column_a_loss_takes_what_the_label_says(config, capsys):
    """-log σ(-1) where π = π₀ and the offset is 1; with some numbers and not all, the row that has none is named."""
    first, *_ = read_metrics(run(config(loss="odpo")).workdir / "metrics.jsonl")
    assert first["loss"] == pytest.approx(math.log(1 + math.e), rel=1e-5)
    assert 'no column "offset": every pair has 1.' in capsys.readouterr().err
    first, *_ = read_metrics(run(config(loss="odpo", loss_settings="offset=3")).workdir / "metrics.jsonl")
    assert first["loss"] == pytest.approx(math.log(1 + math.exp(3)), rel=1e-5)
    with pytest.raises(InputError, match=r"chosen_win_rate, and a column in"):
        run(config(loss="sppo", loss_settings="chosen_win_rate=0.9"))
    incomplete = config(loss="sppo")
    path = Path(incomplete.data)
    path.write_text(path.read_text().replace('"chosen_win_rate": 0.88, ', ""))
    with pytest.raises(InputError, match=r'pairs.jsonl, line 3: "chosen_win_rate" is None'):
        run(incomplete)


def test_flags_that_do_not_go_together(config):
    for flags, match in (
        ({"loss": "nca_pair", "f_divergence": "js"}, "--f-divergence"),
        ({"f_alpha": 0.3}, "--f-alpha"),
        ({"ld_alpha": 1.5}, "--ld-alpha"),
        ({"loss_settings": "gamma"}, "--loss-settings"),
        ({"loss_settings": "gamma=1"}, "a setting 'gamma'; one of likelihood"),
        ({"loss": "simpo", "loss_settings": "beta=3"}, "a setting 'beta'; one of gamma, likelihood"),
        ({"loss": "simpo", "loss_settings": "gamma=-9"}, "gamma is -9; 0 to inf"),
        ({"loss": "cpl", "loss_settings": "discount=1.5"}, "discount is 1.5; 0 to 1"),
        ({"loss": "dynamic_beta", "loss_settings": "batch_margin=50"}, "a setting 'batch_margin'"),
        ({"loss": "sigmoid", "loss_settings": "chosen_logratio=5"}, "a setting 'chosen_logratio'"),
        ({"loss": "exo_pair"}, "--label-smoothing"),
        ({"loss": "tdpo1", "packing": True}, "--packing"),
        ({"use_weighting": True, "packing": True}, "--packing"),
    ):
        with pytest.raises(InputError, match=match):
            check_settings(config(**flags))
    assert settings_of(config(loss_settings="gamma=1.4, likelihood=0")) == {"gamma": 1.4, "likelihood": 0.0}
    for name in PAIRED_LOSSES:
        check_settings(config(loss=name, label_smoothing=0.1))
