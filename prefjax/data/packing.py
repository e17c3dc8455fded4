"""Several sequences in one row: less padding, the same log-probabilities, and a shared prompt only once.

A packed row holds units: a text, a prompt with its completion, or a pair. Best-fit decreasing decides which
units share a row, as in TRL's packing (Ding et al., "Fewer Truncations Improve Language Modeling", 2024,
arXiv:2404.10830), but no unit is cut. How many rows that takes depends on nothing but the units' lengths, so an
epoch's steps are known up front; which of the units of one length goes where is drawn anew every epoch.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from prefjax.checks import refuse, require
from prefjax.data.batching import Batch, Batches, ahead, check_batching, in_epochs
from prefjax.data.records import LANGUAGE_MODELING, PREFERENCE, PROMPT_COMPLETION
from prefjax.data.token_rows import TokenRows


class Bins(NamedTuple):
    """How lengths were packed: row i has the slots `offsets[i]` up to `offsets[i + 1]`, for a unit each."""

    lengths: Int[np.ndarray, " units"]  # of each slot, in tokens
    offsets: Int[np.ndarray, " rows+1"]

    def most(self) -> int:
        """The most units of a row."""
        return int(np.diff(self.offsets).max())


def pack(
    rows: TokenRows,
    *,
    width: int,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    share_prompts: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> Batches:
    """Iterates over packed rows, epoch after epoch, without end; every row of the set comes once an epoch.

    Order, cursor, processes and seeds are as in `batches`; with `shuffle=False` every epoch is the same.

    Args:
      rows: preference, prompt-completion or language-modelling rows.
      width: T, tokens of a packed row.
      batch_size: B, packed rows of one optimiser step on all processes together. How many units those hold
        varies a little, so a mean has to be taken over weights.
      share_prompts: whether a pair has its prompt once, seen by both completions; otherwise twice.

    Returns: batches `{"index" [b, U], "weight" [b, U], "packed": {…}}`: which rows of the set the units of a
      packed row are, and 1, or -1 and 0 where there is no unit; U is the most units that a row has. "packed"
      holds for each token, in arrays [b, T], all int32 but the last:
        tokens:    its id, 0 for padding;
        positions: its place in its own sequence, from 0; a shared prompt's completions both go on from it;
        groups:    its unit, from 0; -1 for padding;
        branches:  0, or 1 in a chosen and 2 in a rejected completion after a shared prompt;
        owner:     the sequence that its log-probability counts for: the unit, or of pairs 2·unit for chosen
                   and 2·unit + 1 for rejected, so that [b, 2U] sums are [b, U, 2]; 0 where `targets` is 0;
        previous:  the place in the row of the token before it in its sequence, which predicts it: not always
                   the one to its left; 0 where there is none;
        targets:   float32, 1 where it is learned.
      `about` says how many packed rows an epoch has ("packed_rows"), the most units of one ("units"), the share
      of places that hold a token ("fill"), and a bound on the learned tokens of one ("targets"), for those who
      gather them before the output head.
    Raises: `InputError` for other kinds, and for a unit wider than `width`.
    """
    require(
        rows.kind in (PREFERENCE, PROMPT_COMPLETION, LANGUAGE_MODELING),
        rows.source,
        f"{rows.kind.name} rows",
        "preference, prompt_completion or language_modeling rows can be packed",
        "Leave out packing.",
    )
    mine = check_batching(batch_size, seed, process_index, process_count)
    sizes = unit_lengths(rows, share_prompts=share_prompts)
    widest = int(sizes.argmax())
    if sizes[widest] > width:
        refuse(
            rows.where(widest),
            f"{sizes[widest]} tokens, its prompt and completions together",
            f"at most {width} (width) fit in a packed row",
            "Raise the width, or lower --max-length.",
        )
    bins = best_fit_decreasing(sizes, width)
    count, most = len(bins.offsets) - 1, bins.most()
    by_length = np.argsort(-sizes, kind="stable")

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        """[rows, U]: the units of each packed row, -1 where there is none."""
        units, places = by_length, np.arange(count)
        if shuffle:
            draw = np.random.default_rng([2, seed, epoch])
            units = np.lexsort((draw.random(len(sizes)), -sizes))
            places = draw.permutation(count)
        # Slots of one length take, in their order, the units of that length.
        filled = np.empty(len(sizes), np.int64)
        filled[np.argsort(-bins.lengths, kind="stable")] = units
        table = np.full((count, most), -1, np.int32)
        within = np.arange(len(sizes)) - np.repeat(bins.offsets[:-1], np.diff(bins.offsets))
        table[np.repeat(np.arange(count), np.diff(bins.offsets)), within] = filled
        return table[places]

    def gather(units: np.ndarray) -> Batch:
        index = np.full((batch_size, most), -1, np.int32)
        index[: len(units)] = units
        index = index[mine]
        packed = packed_arrays(rows, index, width, share_prompts=share_prompts)
        return {"index": index, "weight": (index >= 0).astype(np.float32), "packed": packed}

    drawn = {
        "rows": len(rows.lines),
        "batch_size": batch_size,
        "shuffle": shuffle,
        "seed": seed if shuffle else None,
        "packed": width,
        "share_prompts": share_prompts,
    }
    about = {
        "packed_rows": count,
        "units": most,
        "fill": float(sizes.sum() / (count * width)),
        "targets": _most_targets(rows, sizes, bins),
    }
    steps_per_epoch = -(-count // batch_size)
    steps = in_epochs(order, batch_size, steps_per_epoch).map(gather)
    return Batches(ahead(steps, prefetch), drawn, steps_per_epoch, width, about)


def unit_lengths(rows: TokenRows, *, share_prompts: bool = True) -> Int[np.ndarray, " rows"]:
    """Tokens that each row takes in a packed one."""
    total = sum(field.lengths().astype(np.int64) for field in rows.fields.values())
    if rows.kind == PREFERENCE and share_prompts:
        return total - rows.fields["chosen"].prompt_lengths
    return np.asarray(total)


def best_fit_decreasing(lengths: Int[np.ndarray, " units"], width: int) -> Bins:
    """Packs lengths, the longest first, each into the fullest row that has room for it, or a new one."""
    by_space: dict[int, list[int]] = {}  # rows with that much room
    spaces = 0  # bit n is set where there is a row with room n: the smallest one that fits is found at once
    slots: list[list[int]] = []
    for length in np.sort(lengths)[::-1].tolist():
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, row = width, len(slots)
            slots.append([])
        slots[row].append(length)
        by_space.setdefault(space - length, []).append(row)
        spaces |= 1 << (space - length)
    offsets = np.cumsum([0, *(len(row) for row in slots)])
    return Bins(np.array([length for row in slots for length in row], np.int64), offsets)


def _most_targets(rows: TokenRows, sizes: np.ndarray, bins: Bins) -> int:
    """The most learned tokens of a packed row, whichever units of one length change places."""
    per_unit = np.zeros(len(sizes), np.int64)
    for field in rows.fields.values():
        if field.learned is None:
            per_unit += field.lengths() - field.prompt_lengths
        else:
            per_unit += np.add.reduceat(field.learned.astype(np.int64), field.offsets[:-1])
    most = np.zeros(int(sizes.max()) + 1, np.int64)
    np.maximum.at(most, sizes, per_unit)
    return int(np.add.reduceat(most[bins.lengths], bins.offsets[:-1]).max())


def packed_arrays(
    rows: TokenRows, index: Int[np.ndarray, "b U"], width: int, *, share_prompts: bool = True
) -> dict[str, np.ndarray]:
    """The token arrays of packed rows; see `pack`. `index` names the units of each, -1 where there is none."""
    names = ("tokens", "positions", "groups", "branches", "owner", "previous")
    made = {name: np.zeros((len(index), width), np.int32) for name in names}
    made["groups"][:] = -1
    made["targets"] = np.zeros((len(index), width), np.float32)
    for i, units in enumerate(index):
        arrays, begin = {name: array[i] for name, array in made.items()}, 0
        for number, unit in enumerate(units[units >= 0].tolist()):
            begin = _write_unit(arrays, begin, rows, unit, number, share_prompts)
    return made


def _write_unit(
    arrays: dict[str, np.ndarray], begin: int, rows: TokenRows, unit: int, number: int, share_prompts: bool
) -> int:
    """Writes one unit from `begin` on, and says where it ends."""
    fields = list(rows.fields.values())
    shared = int(fields[0].prompt_lengths[unit]) if rows.kind == PREFERENCE and share_prompts else 0
    end = begin
    for k, field in enumerate(fields):
        tokens, learned = field.row(unit), field.learned_in(unit)
        there = shared if k else 0  # as much of it stands in the row already
        new = slice(end, end + len(tokens) - there)
        within = np.arange(there, len(tokens))
        sequence = number * len(fields) + k
        arrays["tokens"][new] = tokens[there:]
        arrays["positions"][new] = within
        # Where nothing is shared, chosen and rejected are groups of their own and do not see each other.
        arrays["groups"][new] = number if shared else sequence
        arrays["branches"][new] = np.where(within < shared, 0, k + 1) if shared else 0
        arrays["owner"][new] = np.where(learned[there:], sequence, 0)
        arrays["targets"][new] = learned[there:]
        arrays["previous"][new] = np.arange(new.start, new.stop) - 1
        arrays["previous"][end] = begin + shared - 1 if there else 0
        end = new.stop
    return end
