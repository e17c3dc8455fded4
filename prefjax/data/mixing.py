"""Several sources as one: laid end to end, or mixed by weight so that each has its share of every epoch."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from prefjax.checks import require
from prefjax.data.records import LANGUAGE_MODELING, PROMPT_COMPLETION
from prefjax.data.token_rows import Sequences, Steps, TokenRows


def concatenate(sources: Sequence[TokenRows]) -> TokenRows:
    """Rows of several sources as one set, in the order given; `where` still knows each row's source.

    All are of one kind, but texts and conversations may stand beside prompts with completions: those become
    `LANGUAGE_MODELING` rows of which the completion is learned.

    Raises: `InputError` where kinds cannot stand together.
    """
    require(len(sources) > 0, "data", "no source", "at least one is expected", "Name one.")
    if len(sources) == 1:
        return sources[0]
    kinds = {rows.kind for rows in sources}
    if kinds == {LANGUAGE_MODELING, PROMPT_COMPLETION}:
        return concatenate([_with_learned(rows) for rows in sources])
    require(
        len(kinds) == 1,
        ", ".join(rows.source for rows in sources),
        f"rows are {', '.join(rows.kind.name for rows in sources)}",
        "sources of one kind are expected",
        "Leave out those that the algorithm does not read.",
    )
    first = sources[0]
    counts = {reason: 0 for rows in sources for reason in rows.counts}
    for rows in sources:
        for reason, count in rows.counts.items():
            counts[reason] += count
    steps = [rows.steps for rows in sources if rows.steps is not None]
    labels = [rows.labels for rows in sources if rows.labels is not None]
    places = [rows.places for rows in sources if rows.places is not None]
    members = [rows.members for rows in sources if rows.members is not None]
    return TokenRows(
        first.kind,
        " + ".join(rows.source for rows in sources),
        {name: _end_to_end([rows.fields[name] for rows in sources]) for name in first.fields},
        np.concatenate([rows.lines for rows in sources]),
        counts,
        np.concatenate(labels) if labels else None,
        _shifted(members) if members else None,
        Steps(
            np.concatenate([of.ends for of in steps]),
            np.concatenate([of.labels for of in steps]),
            _shifted([of.offsets for of in steps]),
        )
        if steps
        else None,
        tuple(part for rows in sources for part in rows.parts or ((rows.source, len(rows.lines)),)),
        np.concatenate(places) if len(places) == len(sources) else None,
    )


def weighted_order(
    sizes: Sequence[int], weights: Sequence[float], *, seed: int, shuffle: bool
) -> Callable[[int], Int[np.ndarray, " rows"]]:
    """The order in which sources of these sizes, laid end to end, are read: epoch to places of rows.

    An epoch has as many rows as all sources together; those of each source are its share of the weights, by
    largest remainder. A source runs through its rows in an order drawn anew each time it is through, and an
    epoch goes on where the last one stopped: a small source comes again, and of a large one no row comes
    twice before every row has come once.
    """
    shares = largest_remainder(sum(sizes), weights)
    first_rows = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    @lru_cache(maxsize=2 * len(sizes))
    def run(source: int, again: int) -> Int[np.ndarray, " rows"]:
        """The source's rows the `again`-th time, in their order."""
        rows = np.arange(sizes[source])
        # 0 and 1 in front keep these draws apart from those that interleave.
        return np.random.default_rng([0, seed, source, again]).permutation(rows) if shuffle else rows

    def drawn(source: int, begin: int, count: int) -> Int[np.ndarray, " count"]:
        size, pieces = sizes[source], []
        while count > 0:
            again, place = divmod(begin, size)
            pieces.append(run(source, again)[place : place + count])
            begin, count = begin + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate([np.zeros(0, np.int64), *pieces]) + first_rows[source]

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Int[np.ndarray, " rows"]:
        rows = np.concatenate([drawn(i, epoch * share, share) for i, share in enumerate(shares)])
        if shuffle:
            return np.random.default_rng([1, seed, epoch]).permutation(rows)
        # In the order of the files, each spread evenly over the epoch.
        due = np.concatenate([(np.arange(share) + 0.5) / share for share in shares if share])
        return rows[np.argsort(due, kind="stable")]

    return order


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total` and stand as near to the proportions of `weights` as they can.

    Raises: `InputError` for weights that are not positive, or so small that one has no row.
    """
    for weight in weights:
        require(
            0 < weight < float("inf"),
            "data weights",
            f"{weight}",
            "positive numbers are expected",
            "Mend it.",
        )
    exact = np.asarray(weights, np.float64) / sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    short = total - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:short]] += 1
    for weight, share in zip(weights, shares, strict=True):
        require(
            bool(share > 0),
            "data weights",
            f"{weight} of {sum(weights):g} is less than one of the {total} rows of an epoch",
            "at least one row of each source is expected",
            "Raise it, or leave the source out.",
        )
    return shares.tolist()


def _with_learned(rows: TokenRows) -> TokenRows:
    if rows.kind == LANGUAGE_MODELING:
        return rows
    field = rows.fields["completion"]
    within = np.arange(len(field.tokens)) - np.repeat(field.offsets[:-1], field.lengths())
    learned: Bool[np.ndarray, " N"] = within >= np.repeat(field.prompt_lengths, field.lengths())
    return rows._replace(kind=LANGUAGE_MODELING, fields={"completion": field._replace(learned=learned)})


def _end_to_end(parts: Sequence[Sequences]) -> Sequences:
    learned = [part.learned for part in parts if part.learned is not None]
    return Sequences(
        np.concatenate([part.tokens for part in parts]),
        _shifted([part.offsets for part in parts]),
        np.concatenate([part.prompt_lengths for part in parts]),
        np.concatenate(learned) if learned else None,
    )


def _shifted(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Offsets of parts as offsets of the whole."""
    begins = np.cumsum([0, *(of[-1] for of in offsets[:-1])])
    shifted = [of[1:] + begin for of, begin in zip(offsets, begins, strict=True)]
    return np.concatenate([np.zeros(1, np.int64), *shifted]).astype(np.int64)
