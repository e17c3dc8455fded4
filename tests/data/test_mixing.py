"""Several sources as one: rows that know where they came from, shares by weight, and orders that go on."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data.batching import batches
from prefjax.data.mixing import concatenate, largest_remainder, weighted_order
from prefjax.data.records import (
    LANGUAGE_MODELING,
    PREFERENCE,
    PROMPT_COMPLETION,
    RANKED,
    STEPWISE,
    UNPAIRED,
)
from prefjax.data.tokenising import tokenise
from tests.data.small import bpe_tokenizer, records, token_rows

FIRST, SECOND = token_rows(10, seed=1)._replace(source="a.jsonl"), token_rows(30, seed=2)
ROWS = {
    PREFERENCE: (("the", "a", "b"), ("no", "x", "yz")),
    PROMPT_COMPLETION: (("the", "a"), ("no", "xyz")),
    LANGUAGE_MODELING: (("the cat",), ("no",)),
    UNPAIRED: (("the", "a", True), ("no", "b", False)),
    RANKED: (("the", ["a", "b"]), ("no", ["a", "b", "cde"])),
    STEPWISE: (("the", ["a"], [True]), ("no", ["a", "bc"], [True, False])),
}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return np.array_equal(a, b)


@pytest.mark.parametrize("kind", list(ROWS), ids=lambda kind: kind.name)
def test_sources_end_to_end_are_the_set_of_all_their_rows(kind):
    bpe, rows = bpe_tokenizer(), ROWS[kind]
    parts = [
        tokenise(records(kind, *rows, source="a.jsonl"), bpe),
        tokenise(records(kind, rows[1], source="b.jsonl"), bpe),
        tokenise(records(kind, rows[0], source="c.jsonl"), bpe),
    ]
    whole = tokenise(records(kind, *rows, rows[1], rows[0]), bpe)
    joined = concatenate([concatenate(parts[:2]), parts[2]])
    for a, b in zip(
        batches(joined, batch_size=4, shuffle=False),
        [next(batches(whole, batch_size=4, shuffle=False))],
        strict=False,
    ):
        assert same(a, b)
    assert [joined.where(i) for i in range(4)] == [
        "a.jsonl, line 1", "a.jsonl, line 2", "b.jsonl, line 1", "c.jsonl, line 1"
    ]  # fmt: skip
    assert [joined.source_of(i) for i in range(4)] == [0, 0, 1, 2]
    assert joined.places.tolist() == [0, 1, 0, 0]
    assert whole.places.tolist() == [0, 1, 2, 3]
    assert joined.counts == whole.counts
    assert joined.source == "a.jsonl + b.jsonl + c.jsonl"
    assert parts[1].where(0) == "b.jsonl, line 1"


def test_texts_may_stand_beside_completions_of_which_the_prompt_is_not_learned():
    bpe = bpe_tokenizer()
    texts = tokenise(records(LANGUAGE_MODELING, ("the cat",)), bpe)
    answers = tokenise(records(PROMPT_COMPLETION, ("the cat", " no")), bpe)
    rows = concatenate([answers, texts])
    assert rows.kind == LANGUAGE_MODELING
    batch = next(batches(rows, batch_size=2, shuffle=False))
    assert batch["completion"]["mask"][:, :6].tolist() == [[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]
    assert batch["completion"]["prompt_lengths"].tolist() == [3, 1]
    with pytest.raises(InputError, match=r"rows are prompt_completion, preference; sources of one kind"):
        concatenate([answers, tokenise(records(PREFERENCE, ("the", "a", "b")), bpe)])


def test_without_weights_every_row_comes_once_an_epoch():
    made = batches(concatenate([FIRST, SECOND]), batch_size=8, seed=3)
    for _ in range(2):
        epoch = itertools.islice(made, made.steps_per_epoch)
        assert sorted(i for batch in epoch for i in batch["index"].tolist()) == list(range(40))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.data())
def test_shares_are_exact_and_a_source_goes_on_where_it_stopped(sizes, data):
    total = sum(sizes)
    weights = data.draw(st.lists(st.floats(0.3, 1), min_size=len(sizes), max_size=len(sizes)))
    if min(weights) / sum(weights) * total < 1:
        return
    shares = largest_remainder(total, weights)
    assert sum(shares) == total
    assert all(abs(share - w / sum(weights) * total) < 1 for share, w in zip(shares, weights, strict=True))
    for shuffle in (True, False):
        order = weighted_order(sizes, weights, seed=7, shuffle=shuffle)
        begins = np.concatenate([[0], np.cumsum(sizes)])
        taken = [[] for _ in sizes]
        for epoch in range(5):
            rows = order(epoch)
            assert len(rows) == total
            for i, share in enumerate(shares):
                own = rows[(rows >= begins[i]) & (rows < begins[i + 1])]
                assert len(own) == share
                taken[i].append(own)
        for size, epochs in zip(sizes, taken, strict=True):
            # However often a source was gone through, its rows came as often as one another, give or take one.
            counts = np.unique(np.concatenate(epochs), return_counts=True)[1]
            seen = sum(len(own) for own in epochs)
            assert counts.max() == -(-seen // size)
            assert len(counts) == min(size, seen)
            if len(counts) == size:
                assert counts.min() == seen // size


def test_sources_are_interleaved():
    still = weighted_order([10, 30], [0.5, 0.5], seed=0, shuffle=False)(0)
    assert [int(row >= 10) for row in still[:6]] == [0, 1, 0, 1, 0, 1]
    assert still[::2].tolist() == [*range(10), *range(10)]
    drawn = weighted_order([10, 30], [0.5, 0.5], seed=0, shuffle=True)
    halves = [(drawn(0)[:20] >= 10).sum(), (drawn(0)[20:] >= 10).sum()]
    assert min(halves) > 4
    assert not np.array_equal(drawn(0), drawn(1))
    assert not np.array_equal(drawn(0), weighted_order([10, 30], [0.5, 0.5], seed=1, shuffle=True)(0))


@pytest.mark.parametrize("shuffle", [True, False])
def test_mixed_batches_resume_and_are_one_order_on_all_processes(shuffle):
    rows = concatenate([FIRST, SECOND])

    def fresh(**process):
        return batches(rows, batch_size=6, seed=2, shuffle=shuffle, weights=[3.0, 1.0], **process)

    run, parts = fresh(), [fresh(process_index=i, process_count=2) for i in range(2)]
    steps = 2 * run.steps_per_epoch + 1
    unbroken = list(itertools.islice(fresh(), steps))
    for step in range(steps):
        resumed = fresh()
        resumed.set_state(json.loads(json.dumps(run.get_state())))
        assert same(next(resumed), unbroken[step])
        resumed.close()
        assert (
            np.concatenate([next(part)["index"] for part in parts]).tolist()
            == unbroken[step]["index"].tolist()
        )
        next(run)
    first = np.concatenate([batch["index"] for batch in unbroken[: run.steps_per_epoch]])
    assert ((first >= 0) & (first < 10)).sum() == 30  # three quarters of 40
    assert unbroken[run.steps_per_epoch - 1]["weight"].tolist() == [1, 1, 1, 1, 0, 0]
    with pytest.raises(
        InputError, match=r"weights was \[3.0, 1.0\] when it was saved and is \[1.0, 1.0\] now"
    ):
        batches(rows, batch_size=6, seed=2, shuffle=shuffle, weights=[1.0, 1.0]).set_state(run.get_state())
    without = batches(rows, batch_size=6, seed=2, shuffle=shuffle)
    with pytest.raises(InputError, match="sizes was None when it was saved"):
        fresh().set_state(without.get_state())
    with pytest.raises(InputError, match=r"sizes was \[10, 30\] when it was saved and is None now"):
        without.set_state(run.get_state())


def test_weights_that_cannot_be():
    rows = concatenate([FIRST, SECOND])
    for weights, said in (
        ([1.0], "1 for 2 sources"),
        ([1.0, -1.0], "data weights: -1.0; positive numbers"),
        ([1.0, float("nan")], "data weights: nan"),
        ([1.0, 1e-9], "less than one of the 40 rows"),
    ):
        with pytest.raises(InputError, match=said):
            batches(rows, batch_size=4, weights=weights)
    with pytest.raises(InputError, match="no source"):
        concatenate([])
