"""The benchmark of losses starts and prints; what the numbers are is nobody's promise here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import losses as benchmark
from experiments.benchmarks.agreement import TABLES
from experiments.benchmarks.duel import Worker
from experiments.benchmarks.peers.nobody import WITHOUT_A_TIME
from experiments.benchmarks.peers.timed_arrays import Size, arrays
from experiments.benchmarks.peers.timed_jax import EASYDEL, RLAX
from experiments.benchmarks.peers.timed_ours import OURS
from prefjax import losses, returns

SMALL = arrays(benchmark.SMALL_SIZE)


def timed() -> set[str]:
    return {name.partition(",")[0] for name in OURS}


def test_every_function_that_somebody_else_has_is_timed_or_said_why_not():
    in_rows = {
        function.__name__ for table in TABLES.values() for row in table.values() for function in row.functions
    }
    assert in_rows - timed() - set(WITHOUT_A_TIME) == set()
    assert set(WITHOUT_A_TIME) <= in_rows - timed()
    assert all(hasattr(losses, name) or hasattr(returns, name) for name in timed())


def test_the_size_that_is_promised_about():
    size = Size()
    assert (size.pairs, size.sequences, size.tokens) == (65536, 512, 1024)
    for name, array in SMALL.items():
        assert array.dtype in (np.float32, np.int32), name
    assert ((SMALL["mask"] == 0) | (SMALL["mask"] == 1)).all()
    assert (SMALL["mask"][:, 0] == 1).all()
    assert (SMALL["logps"] <= 0).all()


@pytest.mark.parametrize("name", OURS)
def test_a_case_of_ours_is_one_number_and_moves(name):
    function, moves = OURS[name]
    data = {key: jnp.asarray(array) for key, array in SMALL.items()}
    if moves:
        moved = {key: data[key] for key in moves}
        value, gradient = jax.eval_shape(jax.value_and_grad(lambda moved: function(data | moved)), moved)
        assert value.shape == ()
        assert set(gradient) == set(moves)
    else:
        assert jax.eval_shape(function, data).dtype == jnp.float32


def test_peers_in_jax_are_matched_by_name_and_gradient():
    for name, (_, moves) in (RLAX | EASYDEL).items():
        assert OURS[name][1] == moves


def test_alone_it_prints_an_empty_table(capsys):
    config = benchmark.Config(rounds=1, only=("hinge",), peers=(), small=True)
    assert benchmark.main(config) == {}
    assert "times as fast" in capsys.readouterr().out


class Told(Worker):
    """A worker that says what it is told to."""

    def __init__(self, records: dict[str, list[dict]]):
        self.records = {case: [] for case in records}
        self.answers = {case: iter(answers) for case, answers in records.items()}

    def run(self, case: str):
        return next(self.answers[case])


def record(seconds: float, value: float = 0.5) -> dict[str, float]:
    return {"seconds": seconds, "value": value}


def test_ratios_of_matched_cases_and_the_document():
    ours = Told({"prefjax: a": [record(9.0), record(1e-3), record(1e-3)], "prefjax: b": [record(1e-3)] * 3})
    theirs = Told({"TRL: a": [record(9.0), record(3e-3), record(4e-3)], "torch: b": [record(5e-4)] * 3})
    matches = benchmark.matched(ours, [theirs])
    assert [(match.name, match.library) for match in matches] == [("a", "TRL"), ("b", "torch")]
    for number in (-1, 0, 1):
        for match in matches:
            benchmark.turn(match, number)
    assert [benchmark.ratio(match) for match in matches] == [3.5, 0.5]
    rows = benchmark.results(matches)
    assert rows[0] == ["a", "TRL", "1", "3.5", "3.50", "3.00"]
    text = benchmark.document(rows, Size(), benchmark.Config(), load=0.1)
    assert "Slower: b." in text
    assert "| a | TRL | 1 | 3.5 | 3.50 | 3.00 |" in text
    assert "None is slower" in benchmark.document(rows[:1], Size(), benchmark.Config(one_core=True), load=0.1)


def test_another_value_is_another_loss():
    (match,) = benchmark.matched(
        Told({"prefjax: a": [record(1.0)]}), [Told({"TRL: a": [record(1.0, value=0.6)]})]
    )
    with pytest.raises(AssertionError, match="a: TRL has other values"):
        benchmark.turn(match, 0)


@pytest.mark.oracle
def test_everybody_finds_the_same_values():
    found = benchmark.main(benchmark.Config(rounds=1, small=True))
    assert len(found) > 60
