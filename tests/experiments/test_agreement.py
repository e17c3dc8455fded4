"""The table of agreement between libraries: it has every loss, and what it measures with can tell two apart."""

import inspect
import re

import jax
import numpy as np
import pytest

from experiments.benchmarks import agreement
from experiments.benchmarks.peers import alone, measuring
from experiments.benchmarks.peers.batches import GROUP, SEQUENCES, TOKENS, draw
from experiments.benchmarks.peers.nobody import WITHOUT_A_ROW
from experiments.benchmarks.peers.rows_pairs import PAIRS, dpo
from prefjax import losses, returns

ROWS = {name: row for table in agreement.TABLES.values() for name, row in table.items()}


def published(room) -> set[str]:
    return {name for name, value in vars(room).items() if inspect.isfunction(inspect.unwrap(value))}


def test_every_loss_and_advantage_has_a_row_or_a_reason():
    in_rows = {function.__name__ for row in ROWS.values() for function in row.functions}
    names = published(losses) | published(returns) - {
        "linear_recurrence"
    }  # no method: what returns are made with
    assert names - in_rows - set(WITHOUT_A_ROW) == set()
    assert set(WITHOUT_A_ROW) <= names - in_rows
    assert all(WITHOUT_A_ROW.values())


def test_a_row_is_one_method_and_names_columns():
    assert sum(len(table) for table in agreement.TABLES.values()) == len(ROWS)  # no name twice
    for name, row in ROWS.items():
        libraries = [peer.library for peer in row.peers]
        assert libraries, name
        assert set(libraries) <= set(agreement.LIBRARIES), name
        assert len(set(libraries)) == len(libraries), name
        for peer in row.peers:
            assert peer.note or (peer.ours is None and peer.default is None), name


def test_batches_are_what_they_say():
    batches = draw(20)
    assert {len(array) for array in batches.values()} == {20}
    assert batches["logps"].shape == (20, SEQUENCES, TOKENS)
    assert (batches["mask"].sum(-1) >= 1).all()
    assert 0 < batches["mask"].mean() < 1
    for name in ("logps", "reference_logps", "behaviour_logps", "sampler_logps"):
        assert (batches[name] <= 0).all()
        assert (batches[name][batches["mask"] == 0] == 0).all()
    assert (batches["desirable"].sum(-1) == SEQUENCES // 2).all()
    assert batches["greedy_rewards"].shape == (20, SEQUENCES // GROUP)
    apart = np.abs((batches["logps"] - batches["reference_logps"]).sum(-1)).mean(-1)
    assert apart[9::10].min() > np.median(apart)  # every tenth is far
    np.testing.assert_array_equal(draw(20)["logps"], batches["logps"])


@pytest.mark.parametrize("name", ROWS)
def test_our_half_of_a_row_is_one_number_a_batch(name):
    row = ROWS[name]
    for function in {row.ours, *(peer.ours for peer in row.peers if peer.ours)}:
        with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
            value, gradient = jax.eval_shape(measuring.of_every(function, row.moves), draw(3))
        assert value.shape == (3,) or not row.moves
        assert set(gradient or {}) == set(row.moves)


def test_differences_are_relative_and_seen():
    batches = draw(3)
    same = measuring.in_jax(dpo, batches, ("logps",))
    assert measuring.apart(same, same) == (0.0, 0.0)
    twice = measuring.in_jax(lambda batch: 2 * dpo(batch), batches, ("logps",))
    found = measuring.apart(same, twice)
    assert 0.4 < found.value <= 0.5
    assert found.gradient == pytest.approx(0.5)
    nan = measuring.Result(same.value * np.nan, same.gradient)
    assert np.isnan(measuring.apart(nan, same).value)
    values = measuring.in_jax(lambda batch: batch["scores"], batches, ())
    assert measuring.apart(values, values) == (0.0, None)
    with pytest.raises(ValueError, match="shape"):
        measuring.apart(values, same)


def peer(run, **more) -> measuring.Peer:
    return measuring.Peer("rlax", run, "jax", **more)


def test_a_note_says_how_far_a_definition_is_from_the_row():
    def doubled(batch):
        return 2 * dpo(batch)

    row = PAIRS["DPO"]
    (cell,) = agreement.cells(row, [peer(doubled, note="doubled", ours=doubled)], draw(3)).values()
    assert cell.found == (0.0, 0.0)
    assert cell.otherwise.gradient == pytest.approx(0.5)
    (cell,) = agreement.cells(row, [peer(dpo, note="doubled by default", default=doubled)], draw(3)).values()
    assert cell.found == (0.0, 0.0)
    assert cell.otherwise.gradient == pytest.approx(0.5)
    (cell,) = agreement.cells(row, [peer(doubled, note="doubled")], draw(3)).values()
    text = agreement.document({"DPO": {"rlax": cell}}, agreement.Config())
    assert "| DPO | **0.5, 0.5** (1) |" in text
    assert "1. rlax: doubled.\n" in text


def test_numbers_are_short():
    shown = [agreement.number(x) for x in (0.0, 1.23e-16, 4e-7, 0.0031, 0.5, 2.345, 31.0)]
    assert shown == ["0", "1e-16", "4e-7", "3e-3", "0.5", "2.3", "31"]


def test_a_file_alone_has_no_package_around_it(tmp_path, monkeypatch):
    folder = tmp_path / "some_library" / "deep"
    folder.mkdir(parents=True)
    (tmp_path / "some_library" / "__init__.py").write_text("raise ImportError('the whole library')\n")
    (folder / "__init__.py").write_text("raise ImportError('a whole room')\n")
    (folder / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "loss.py").write_text(
        "import ray\nfrom some_library.servers import Server\nfrom . import helper\n\n"
        "@ray.remote\ndef loss(x):\n    return helper.double(x)\n\nclass Mine(Server):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = alone.alone("some_library.deep.loss", "some_library.deep.helper")
    assert module.loss(3) == 6
    with alone.given(module, helper=None):
        assert module.helper is None
    assert module.helper is not None
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        alone.alone("no_such_library.loss")


@pytest.mark.oracle
def test_libraries_agree_wherever_the_table_says_so():
    found = agreement.main(agreement.Config(batches=20))
    assert found
    for name, row in found.items():
        for library, cell in row.items():
            nothing_reproduces = re.search("No argument here|no argument here|almost theirs", cell.note)
            if not nothing_reproduces:
                assert max(x for x in cell.found if x is not None) < 1e-5, (name, library)
