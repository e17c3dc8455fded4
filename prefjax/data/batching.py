"""Token rows to batches of one shape, in an order that all processes share, from a cursor one can save."""

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from prefjax.checks import refuse, require
from prefjax.data.tokenising import Sequences, TokenRows

Batch = dict[str, Any]


class Batches:
    """An endless iterator of batches; see `batches`. `get_state` and `set_state` are its cursor."""

    def __init__(
        self, steps: grain.DatasetIterator, order: Mapping[str, Any], steps_per_epoch: int, width: int
    ):
        self._steps = steps
        self._order = dict(order)
        self.steps_per_epoch = steps_per_epoch
        self.width = width  # T, or P of prompts

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
        for name, here in self._order.items():
            there = order.get(name)
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
    process_index: int = 0,
    process_count: int = 1,
    width: int | None = None,
    prefetch: int = 2,
) -> Batches:
    """Iterates over rows, epoch after epoch, without end.

    The order is one for the whole run: each epoch is a permutation of the rows drawn from `seed` and the
    epoch (the file's order with `shuffle=False`), cut into batches of `batch_size`. Epochs do not share a
    batch, as in Hugging Face's Trainer: the last of an epoch is filled up with rows of weight 0. A process
    gets its contiguous slice of each batch, so the concatenation over processes is the batch.

    Args:
      batch_size: B, rows of one optimiser step on all processes together.
      width: T, the tokens a row is padded to; unless given, the longest row of the set, rounded up to a
        multiple of 8, so that every batch has one shape and a step compiles once.
      prefetch: how many batches are prepared ahead, by a thread; 0 for none.

    Returns: dicts of NumPy arrays, b = B / process_count:
      pairs: `{"index" [b], "weight" [b], "chosen": F, "rejected": F}`, completions: `{…, "completion": F}`,
      prompts: `{…, "prompt": F}`; F is `{"tokens" [b, T], "prompt_lengths" [b], "lengths" [b]}`, without
      "prompt_lengths" for prompts. All are int32, right padded with 0, but "weight": float32, 1, or 0 for a
      row that only fills a batch. That one repeats the first of its batch, and has index -1; other indices
      are places in `rows`.
    Raises: `InputError` where the batch does not divide by the processes or a row is wider than `width`.
    """
    total = len(rows.lines)
    longest = rows.longest()
    width = -(-longest // 8) * 8 if width is None else width
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
    if longest > width:
        refuse(
            rows.source, f"a row of {longest} tokens", f"at most {width} (width) are expected", "Raise width."
        )

    order = grain.MapDataset.range(total)
    if shuffle:
        order = order.shuffle(seed=_spread(seed))
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)

    def gather(indices: list[int]) -> Batch:
        filled = np.full(batch_size, indices[0], np.int32)
        filled[: len(indices)] = indices
        real = np.arange(batch_size) < len(indices)
        filled, real = filled[mine], real[mine]
        fields = {name: _padded(field, filled, width) for name, field in rows.fields.items()}
        if "prompt" in fields:
            del fields["prompt"]["prompt_lengths"]
        index = np.where(real, filled, -1).astype(np.int32)
        return {"index": index, "weight": real.astype(np.float32), **fields}

    steps = order.batch(batch_size, drop_remainder=False, batch_fn=list).repeat().map(gather)
    # One thread is enough: a batch is a copy within memory.
    ahead = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
    drawn = {
        "rows": total,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed if shuffle else None,
    }
    return Batches(iter(steps.to_iter_dataset(ahead)), drawn, -(-total // batch_size), width)


def _padded(field: Sequences, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
    tokens = np.zeros((len(indices), width), np.int32)
    for place, index in enumerate(indices):
        row = field.row(int(index))
        tokens[place, : len(row)] = row
    lengths = (field.offsets[indices + 1] - field.offsets[indices]).astype(np.int32)
    return {"tokens": tokens, "prompt_lengths": field.prompt_lengths[indices], "lengths": lengths}


def _spread(seed: int) -> int:
    # grain draws epoch e from seed + e, so that runs of seeds 0 and 1 would share all orders but one.
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
