"""Batches: every row once an epoch, one order on all processes, and a cursor that forgets nothing."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import batches
from prefjax.data.records import LANGUAGE_MODELING, PROMPT_COMPLETION, RANKED, STEPWISE, UNPAIRED
from prefjax.data.tokenising import tokenise
from tests.data.small import bpe_tokenizer, records, token_rows

PAIR = ("chosen", "rejected")


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return a.dtype == b.dtype and np.array_equal(a, b)


def joined(parts):
    if isinstance(parts[0], dict):
        return {name: joined([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts)


def indices(batch):
    return batch["index"][batch["weight"] > 0].tolist()


def test_the_layout_of_each_kind():
    for fields in (PAIR, ("completion",), ("prompt",)):
        rows = token_rows(10, fields)
        made = batches(rows, batch_size=4, shuffle=False)
        width = made.width
        assert width % 8 == 0
        assert 0 <= width - rows.longest() < 8
        for batch in take(made, 3):
            assert list(batch) == ["index", "weight", *fields]
            assert (batch["index"].shape, batch["index"].dtype) == ((4,), np.int32)
            assert (batch["weight"].shape, batch["weight"].dtype) == ((4,), np.float32)
            for name in fields:
                expected = (
                    ["tokens", "lengths"] if name == "prompt" else ["tokens", "prompt_lengths", "lengths"]
                )
                assert list(batch[name]) == expected
                assert all(array.dtype == np.int32 for array in batch[name].values())
                assert batch[name]["tokens"].shape == (4, width)
                for i, index in enumerate(indices(batch)):
                    length = batch[name]["lengths"][i]
                    assert batch[name]["tokens"][i, :length].tolist() == rows.fields[name].row(index).tolist()
                    assert not batch[name]["tokens"][i, length:].any()
                    if name != "prompt":
                        assert batch[name]["prompt_lengths"][i] == rows.fields[name].prompt_lengths[index]
        made.close()


def test_file_order_and_the_last_batch_of_an_epoch():
    made = batches(token_rows(10), batch_size=4, shuffle=False)
    assert made.steps_per_epoch == 3
    for first, second, third in (take(made, 3), take(made, 3)):
        assert [indices(first), indices(second), indices(third)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert third["weight"].tolist() == [1, 1, 0, 0]
        assert third["index"].tolist() == [8, 9, -1, -1]
        # A filler is a real row, so that whatever is computed of it is finite.
        assert np.array_equal(third["completion"]["tokens"][2], third["completion"]["tokens"][0])
        assert (third["completion"]["lengths"] > third["completion"]["prompt_lengths"]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 2**40))
def test_every_row_once_an_epoch(count, batch_size, seed):
    made = batches(token_rows(count), batch_size=batch_size, seed=seed, prefetch=0)
    for _ in range(3):
        epoch = take(made, made.steps_per_epoch)
        assert sorted(i for batch in epoch for i in indices(batch)) == list(range(count))
        assert all((batch["weight"] == 1).all() for batch in epoch[:-1])


def test_a_seed_is_an_order_and_epochs_differ():
    def orders(seed):
        made = batches(token_rows(40), batch_size=8, seed=seed)
        epochs = [tuple(i for batch in take(made, 5) for i in indices(batch)) for _ in range(3)]
        made.close()
        return epochs

    assert orders(3) == orders(3)
    # Of neighbouring seeds too: no epoch of one is an epoch of another.
    assert len({order for seed in range(4) for order in orders(seed)}) == 12


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_together_have_the_batch_of_one(processes, shuffle):
    rows = token_rows(10, PAIR)
    whole = batches(rows, batch_size=8, seed=1, shuffle=shuffle)
    parts = [
        batches(rows, batch_size=8, seed=1, shuffle=shuffle, process_index=i, process_count=processes)
        for i in range(processes)
    ]
    for _ in range(5):
        assert same(next(whole), joined([next(part) for part in parts]))
        # The cursor is of the run, so a run may go on with another number of processes.
        assert all(part.get_state() == whole.get_state() for part in parts)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_resuming_at_every_step_is_never_having_stopped(prefetch):
    rows = token_rows(11, PAIR)

    def fresh():
        return batches(rows, batch_size=4, seed=5, prefetch=prefetch)

    steps = 7  # two epochs and a bit
    unbroken = take(fresh(), steps)
    run = fresh()
    for step in range(steps):
        cursor = json.loads(json.dumps(run.get_state()))
        assert len(json.dumps(cursor)) < 200
        resumed = fresh()
        resumed.set_state(cursor)
        assert resumed.get_state() == cursor
        assert all(same(a, b) for a, b in zip(take(resumed, steps - step), unbroken[step:], strict=True))
        resumed.close()
        next(run)
    # Back to the start with the same iterator.
    run.set_state(fresh().get_state())
    assert all(same(a, b) for a, b in zip(take(run, steps), unbroken, strict=True))


def test_a_cursor_of_another_order_is_refused():
    cursor = batches(token_rows(10), batch_size=4, seed=1).get_state()
    for changed, name in (
        (batches(token_rows(11), batch_size=4, seed=1), "rows was 10 when it was saved and is 11 now"),
        (batches(token_rows(10), batch_size=5, seed=1), "batch_size was 4"),
        (batches(token_rows(10), batch_size=4, seed=2), "seed was 1 when it was saved and is 2 now"),
        (batches(token_rows(10), batch_size=4, seed=1, shuffle=False), "shuffle was True"),
    ):
        with pytest.raises(InputError, match=f"data cursor: {name}"):
            changed.set_state(cursor)
    with pytest.raises(InputError, match="rows was None"):
        batches(token_rows(10), batch_size=4).set_state({})


def test_a_width_of_ones_own():
    rows = token_rows(4)
    assert next(batches(rows, batch_size=2, width=37))["completion"]["tokens"].shape == (2, 37)
    with pytest.raises(InputError, match=rf"rows.jsonl: a row of {rows.longest()} tokens; at most 3"):
        batches(rows, batch_size=2, width=3)


def test_batches_that_cannot_be():
    rows = token_rows(4)
    with pytest.raises(InputError, match="--batch-size: 6 rows on 4 processes"):
        batches(rows, batch_size=6, process_count=4)
    with pytest.raises(InputError, match="--batch-size: 0; at least 1"):
        batches(rows, batch_size=0)
    with pytest.raises(InputError, match="process_index: 2 of 2"):
        batches(rows, batch_size=2, process_index=2, process_count=2)
    with pytest.raises(InputError, match="--seed: -1"):
        batches(rows, batch_size=2, seed=-1)


RANKED_ROWS = (
    ("the", ["a", "no"]),
    ("the cat", ["b", "xyz", "c"]),
    ("no", ["a", "b", "c"]),
    ("e", ["a", "b"]),
)
STEPS = (
    ("the", ["a", "no cat", "b"], [True, False, True]),
    ("no", ["x"], [False]),
    ("e", ["a", "s"], [True] * 2),
)


def test_ranked_rows_with_the_best_first():
    rows = tokenise(records(RANKED, *RANKED_ROWS), bpe_tokenizer())
    batch = next(batches(rows, batch_size=4, shuffle=False))
    assert batch["ranked"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert batch["ranked"].dtype == np.float32
    fields = batch["completions"]
    assert fields["tokens"].shape == (4, 3, 8)
    alone = tokenise(
        records(PROMPT_COMPLETION, *((prompt, c) for prompt, several in RANKED_ROWS for c in several)),
        bpe_tokenizer(),
    ).fields["completion"]
    taken = iter(range(len(alone.prompt_lengths)))
    for i, (_, several) in enumerate(RANKED_ROWS):
        for k in range(len(several)):
            row = alone.row(next(taken))
            assert fields["tokens"][i, k, : len(row)].tolist() == row.tolist()
            assert fields["lengths"][i, k] == len(row)
        assert len(set(fields["prompt_lengths"][i].tolist())) == 1
    # What is not there repeats the best one, so that whatever is computed of it is finite.
    assert np.array_equal(fields["tokens"][0, 2], fields["tokens"][0, 0])


def test_ranked_completions_share_the_earliest_boundary_and_are_skipped_together():
    bpe = bpe_tokenizer()
    rows = records(RANKED, ("the ", ["no", "x"]), ("the the the", ["no", "x"]))
    with pytest.raises(InputError, match=r"rows.jsonl, line 1: .* prompt \+ completions\[0\] reads"):
        tokenise(rows, bpe)
    joined = tokenise(rows, bpe, boundary="joined", max_length=4)
    assert joined.lines.tolist() == [1]
    assert joined.fields["completions"].prompt_lengths.tolist() == [2, 2]
    assert joined.counts["skipped: prompt fills max_length"] == 1


def test_stepwise_rows_say_where_steps_end():
    rows = tokenise(records(STEPWISE, *STEPS), bpe_tokenizer())
    batch = next(batches(rows, batch_size=3, shuffle=False))
    assert batch["step_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch["step_labels"].tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
    assert (batch["step_ends"].dtype, batch["step_labels"].dtype) == (np.int32, np.float32)
    newline = bpe_tokenizer().convert_tokens_to_ids("Ċ")
    for i, (_, steps, _) in enumerate(STEPS):
        ends = batch["step_ends"][i]
        assert (batch["completion"]["tokens"][i, ends[: len(steps)]] == newline).all()
        assert ends[len(steps) - 1] == batch["completion"]["lengths"][i] - 1
        assert (ends[len(steps) :] == ends[0]).all()
    # A step that is cut has no label; a row without any is left out.
    cut = tokenise(records(STEPWISE, *STEPS), bpe_tokenizer(), max_length=4)
    assert np.diff(cut.steps.offsets).tolist() == [1, 1, 1]
    assert cut.counts["truncated"] == 2
    short = tokenise(records(STEPWISE, *STEPS, ("no", ["the cat no"], [True])), bpe_tokenizer(), max_length=4)
    assert short.counts["skipped: no step ends within max_length"] == 1


def test_labels_and_masks_of_unpaired_rows_and_texts():
    bpe = bpe_tokenizer()
    unpaired = tokenise(records(UNPAIRED, ("the", "a", True), ("no", "b", False)), bpe)
    batch = next(batches(unpaired, batch_size=2, shuffle=False))
    assert list(batch) == ["index", "weight", "label", "completion"]
    assert (batch["label"].tolist(), batch["label"].dtype) == ([1, 0], np.float32)
    texts = tokenise(records(LANGUAGE_MODELING, ("the cat",), ("no",)), bpe)
    batch = next(batches(texts, batch_size=2, shuffle=False))
    assert batch["completion"]["tokens"][0].tolist()[:5] == [1, 263, 269, 2, 0]
    assert batch["completion"]["mask"].tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert batch["completion"]["mask"].dtype == np.float32
    assert batch["completion"]["prompt_lengths"].tolist() == [1, 1]
    assert texts.longest_completion() == 3
    # A text that is nothing but its end, without BOS, has nothing that could be predicted.
    bare = tokenise(records(LANGUAGE_MODELING, ("</s>",), ("no",)), bpe_tokenizer(bos=False))
    assert bare.counts["skipped: nothing to learn"] == 1
