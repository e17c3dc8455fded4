"""Token rows to batches of one shape, in an order that all processes share, from a cursor one can save."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from prefjax.checks import refuse, require
from prefjax.data.mixing import weighted_order
from prefjax.data.token_rows import Sequences, TokenRows

Batch = dict[str, Any]


class Batches:
    """An endless iterator of batches; see `batches`. `get_state` and `set_state` are its cursor."""

    def __init__(
        self,
        steps: grain.DatasetIterator,
        order: Mapping[str, Any],
        steps_per_epoch: int,
        width: int,
        about: Mapping[str, int | float] | None = None,
    ):
        self._steps = steps
        self._order = dict(order)
        self.steps_per_epoch = steps_per_epoch
        self.width = width  # T, or P of prompts
        self.about = dict(about or {})  # what is known up front of the batches, such as how full they are

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._steps)

    def get_state(self) -> dict[str, Any]:
        """The cursor after the last batch taken: a small dict for JSON, alike on all processes.

        It says how many batches of the whole run were taken, and of which order, so a run may be resumed
        with another number of processes. Batches that were prepared ahead do not count.
        """
        return {"grain": self._steps.get_state(), "order": dict(self._order)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes where `get_state` was called. Raises `InputError` if that was in another order of rows."""
        order = state.get("order", {})
        for name in {**self._order, **order}:
            there, here = order.get(name), self._order.get(name)
            require(
                there == here,
                "data cursor",
                f"{name} was {there} when it was saved and is {here} now",
                "the same order of rows is expected",
                "Resume with the data, batch size, seed and shuffling of that run, or start afresh.",
            )
        self._steps.set_state(dict(state["grain"]))

    def close(self) -> None:
        """Stops preparing batches ahead."""
        self._steps.close()


def batches(
    rows: TokenRows,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    weights: Sequence[float] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    width: int | None = None,
    prefetch: int = 2,
    numbers: Mapping[str, np.ndarray] | None = None,
) -> Batches:
    """Iterates over rows, epoch after epoch, without end.

    The order is one for the whole run: each epoch is a permutation of the rows drawn from `seed` and the
    epoch (the file's order with `shuffle=False`), cut into batches of `batch_size`. Epochs do not share a
    batch, as in Hugging Face's Trainer: the last of an epoch is filled up with rows of weight 0. A process
    gets its contiguous slice of each batch, so the concatenation over processes is the batch.

    Args:
      batch_size: B, rows of one optimiser step on all processes together.
      weights: for rows of several sources (see `concatenate`), the share of each in every epoch, see
        `weighted_order`. Without, each row comes once an epoch.
      width: T, the tokens a row is padded to; unless given, the longest row of the set, rounded up to a
        multiple of 8, so that every batch has one shape and a step compiles once.
      prefetch: how many batches are prepared ahead, by a thread; 0 for none.
      numbers: more of each row by name, [rows] float32, as a win rate that some loss reads.

    Returns: dicts of NumPy arrays, b = B / process_count, by kind of row, each with "index" [b] and
      "weight" [b] in front:
        preference `{"chosen": F, "rejected": F}`, prompt-completion `{"completion": F}`,
        prompt-only `{"prompt": F}` without prompt_lengths,
        language modelling `{"completion": F and "mask" [b, T]}`, 1 where a token is learned,
        unpaired `{"label" [b], "completion": F}`, 1 for good,
        ranked `{"completions": F of [b, K, …], "ranked" [b, K]}`, the best one first, 1 where there is one;
        the others repeat the first, so that whatever is computed of them is finite,
        stepwise `{"completion": F, "step_ends", "step_labels", "step_mask" [b, S]}`, S for the most steps.
      F is `{"tokens" [b, T], "prompt_lengths" [b], "lengths" [b]}`. Places, lengths and tokens are int32, right
      padded with 0, and the others float32. "weight" is 1, or 0 for a row that only fills a batch: that one
      repeats the first of its batch, and has index -1; other indices are places in `rows`.
    Raises: `InputError` where the batch does not divide by the processes or a row is wider than `width`.
    """
    total = len(rows.lines)
    width = -(-rows.longest() // 8) * 8 if width is None else width
    mine = check_batching(batch_size, seed, process_index, process_count)
    check_width(rows, width)

    def gather(indices: Sequence[int] | np.ndarray) -> Batch:
        filled = np.full(batch_size, indices[0], np.int32)
        filled[: len(indices)] = indices
        real = np.arange(batch_size) < len(indices)
        filled, real = filled[mine], real[mine]
        index = np.where(real, filled, -1).astype(np.int32)
        more = {name: column[filled] for name, column in (numbers or {}).items()}
        return {"index": index, "weight": real.astype(np.float32), **more, **_arrays(rows, filled, width)}

    drawn: dict[str, Any] = {
        "rows": total,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed if shuffle else None,
    }
    steps_per_epoch = -(-total // batch_size)
    if weights is None:
        order = grain.MapDataset.range(total)
        if shuffle:
            order = order.shuffle(seed=_spread(seed))
        steps = order.batch(batch_size, drop_remainder=False, batch_fn=list).repeat().map(gather)
    else:
        sizes = [count for _, count in rows.parts] or [total]
        require(
            len(weights) == len(sizes),
            "data weights",
            f"{len(weights)} for {len(sizes)} sources",
            "one for each source is expected",
            "Add or drop some.",
        )
        mixed = weighted_order(sizes, weights, seed=seed, shuffle=shuffle)
        drawn |= {"sizes": sizes, "weights": [float(weight) for weight in weights]}
        steps = in_epochs(mixed, batch_size, steps_per_epoch).map(gather)
    return Batches(ahead(steps, prefetch), drawn, steps_per_epoch, width)


def in_epochs(order: Callable[[int], np.ndarray], batch_size: int, steps_per_epoch: int) -> grain.MapDataset:
    """Step to what its batch holds: slices of an epoch's order, then of the next one's, without end."""

    def taken(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps_per_epoch)
        return order(epoch)[place * batch_size : (place + 1) * batch_size]

    return grain.MapDataset.range(sys.maxsize).map(taken)


def ahead(steps: grain.MapDataset, prefetch: int) -> grain.DatasetIterator:
    """Iterates over steps, `prefetch` of them prepared ahead."""
    # One thread is enough: a batch is a copy within memory.
    options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
    return iter(steps.to_iter_dataset(options))


def check_batching(batch_size: int, seed: int, process_index: int, process_count: int) -> slice:
    """The part of every batch that is this process's, once the numbers are known to make sense."""
    require(batch_size > 0, "--batch-size", f"{batch_size}", "at least 1 is expected", "Raise it.")
    require(seed >= 0, "--seed", f"{seed}", "0 or more is expected", "Choose another seed.")
    require(
        process_count > 0 and batch_size % process_count == 0,
        "--batch-size",
        f"{batch_size} rows on {process_count} processes",
        "as many rows on each process are expected",
        "Choose a multiple of the number of processes.",
    )
    require(
        0 <= process_index < process_count,
        "process_index",
        f"{process_index} of {process_count}",
        "0 up to the number of processes is expected",
        "Pass jax.process_index() and jax.process_count().",
    )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def check_width(rows: TokenRows, width: int) -> None:
    """Raises `InputError` where a row is wider than `width`."""
    longest = rows.longest()
    if longest > width:
        refuse(
            rows.source, f"a row of {longest} tokens", f"at most {width} (width) are expected", "Raise width."
        )


def _arrays(rows: TokenRows, indices: np.ndarray, width: int) -> Batch:
    """The arrays of these rows, in the layout of their kind."""
    if rows.members is not None:
        first = rows.members[indices][:, None]
        count = np.diff(rows.members)[indices][:, None]
        place = np.arange(np.diff(rows.members).max())[None]
        there = place < count
        which = np.where(there, first + place, first)
        flat = _padded(rows.fields["completions"], which.ravel(), width)
        ranked = {name: array.reshape(*which.shape, *array.shape[1:]) for name, array in flat.items()}
        return {"completions": ranked, "ranked": there.astype(np.float32)}
    fields = {name: _padded(field, indices, width) for name, field in rows.fields.items()}
    if "prompt" in fields:
        del fields["prompt"]["prompt_lengths"]
    if rows.labels is not None:
        return {"label": rows.labels[indices], **fields}
    if rows.steps is None:
        return fields
    steps = rows.steps
    first, count = steps.offsets[indices][:, None], np.diff(steps.offsets)[indices][:, None]
    place = np.arange(np.diff(steps.offsets).max())[None]
    there = place < count
    which = np.where(there, first + place, first)  # what is not there stands at the first step's place
    return {
        **fields,
        "step_ends": steps.ends[which],
        "step_labels": np.where(there, steps.labels[which], 0).astype(np.float32),
        "step_mask": there.astype(np.float32),
    }


def _padded(field: Sequences, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
    tokens = np.zeros((len(indices), width), np.int32)
    for place, index in enumerate(indices):
        row = field.row(int(index))
        tokens[place, : len(row)] = row
    lengths = (field.offsets[indices + 1] - field.offsets[indices]).astype(np.int32)
    made = {"tokens": tokens, "prompt_lengths": field.prompt_lengths[indices], "lengths": lengths}
    if field.learned is not None:
        made["mask"] = np.zeros((len(indices), width), np.float32)
        for place, index in enumerate(indices):
            made["mask"][place, : lengths[place]] = field.learned_in(int(index))
    return made


def _spread(seed: int) -> int:
    # grain draws epoch e from seed + e, so that runs of seeds 0 and 1 would share all orders but one.
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
