"""Token rows: what tokenising leaves in memory, whatever the kind of record it came from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from prefjax.data.records import Kind, place


class Sequences(NamedTuple):
    """Token rows laid end to end: row i is `tokens[offsets[i] : offsets[i + 1]]`."""

    tokens: Int[np.ndarray, " N"]  # int32
    offsets: Int[np.ndarray, " rows+1"]  # int64
    prompt_lengths: Int[np.ndarray, " rows"]  # int32; a completion starts there
    learned: Bool[np.ndarray, " N"] | None = None  # which tokens are learned; None: all of a completion

    def row(self, index: int) -> Int[np.ndarray, " length"]:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> Int[np.ndarray, " rows"]:
        return np.diff(self.offsets).astype(np.int32)

    def learned_in(self, index: int) -> Bool[np.ndarray, " length"]:
        """Which tokens of a row are learned."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        if self.learned is not None:
            return self.learned[here]
        return np.arange(here.stop - here.start) >= self.prompt_lengths[index]


class Steps(NamedTuple):
    """The judged steps of stepwise rows: those of row i are at `offsets[i]` up to `offsets[i + 1]`."""

    ends: Int[np.ndarray, " N"]  # int32: place in its row of the last token of a step, its separator's
    labels: Float[np.ndarray, " N"]  # float32: 1 for a right step, 0 for a wrong one
    offsets: Int[np.ndarray, " rows+1"]  # int64


class TokenRows(NamedTuple):
    """The rows that survived tokenising, by field.

    Fields are chosen and rejected (preference), completions (ranked: all of a row, one after another),
    prompt (prompt-only), or completion (the others).
    """

    kind: Kind
    source: str
    fields: dict[str, Sequences]
    lines: Int[np.ndarray, " rows"]  # int64: where in the source each row stood
    counts: dict[str, int]  # rows, kept, truncated, and skipped by reason
    labels: Float[np.ndarray, " rows"] | None = (
        None  # unpaired: float32, 1 for a good completion, 0 for a bad
    )
    # Ranked: the completions of row i are sequences members[i] up to members[i + 1], the best one first.
    members: Int[np.ndarray, " rows+1"] | None = None
    steps: Steps | None = None  # stepwise
    parts: tuple[tuple[str, int], ...] = ()  # of several sources: each one's name, and how many rows it has
    places: Int[np.ndarray, " rows"] | None = None  # int64: see `place_of`; None: all rows are here

    def longest(self) -> int:
        """Tokens of the longest row of any field."""
        return max(int(sequences.lengths().max()) for sequences in self.fields.values())

    def longest_completion(self) -> int:
        """Tokens of the longest completion of any field, its end included; 0 for prompts."""
        return max(int((s.lengths() - s.prompt_lengths).max()) for s in self.fields.values())

    def source_of(self, index: int) -> int:
        """Which of several sources the row at `index` came from, from 0."""
        ends = np.cumsum([count for _, count in self.parts] or [len(self.lines)])
        return int(np.searchsorted(ends, index, side="right"))

    def place_of(self, index: int) -> int:
        """Where in `Records.rows` of its source the row at `index` stands, with what is not in its tokens."""
        if self.places is not None:
            return int(self.places[index])
        return index - sum(count for _, count in self.parts[: self.source_of(index)])

    def where(self, index: int) -> str:
        """`pairs.jsonl, line 17`: where the row at `index` came from."""
        source = self.parts[self.source_of(index)][0] if self.parts else self.source
        return place(source, int(self.lines[index]))
