"""Rows to token ids: prompt, then completion, then its end, cut exactly where the completion starts.

What is done is what TRL's trainers do. Of text columns: the text of EOS is appended to a completion unless it
is there, prompt + completion is tokenised as one text with the special tokens of the tokeniser, and an over-long
row keeps its start. Conversations go through the chat template instead (see `prefjax.data.chat`). Where a token
reaches across the boundary, or a template renders a prompt otherwise when a completion follows, TRL warns once
and goes on; here it is an error with the row's line and both token windows, unless asked for.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from prefjax.checks import refuse, require
from prefjax.data.records import (
    LANGUAGE_MODELING,
    PREFERENCE,
    PROMPT_COMPLETION,
    PROMPT_ONLY,
    RANKED,
    STEPWISE,
    UNPAIRED,
    Kind,
    Records,
    place,
)
from prefjax.data.row_tokens import Boundary, Row, RowTokens, answered, judged, spoken
from prefjax.data.token_rows import Sequences as Sequences
from prefjax.data.token_rows import Steps
from prefjax.data.token_rows import TokenRows as TokenRows
from prefjax.data.tokenisers import check_tokenizer

Overlong = Literal["truncate", "skip", "error"]

CHUNK = 1024  # Rows a call: a fast tokeniser works on the texts of a call in parallel.
# What each kind becomes in a batch. The fields of a pair are its columns; those of ranked rows hold several.
FIELDS: dict[Kind, tuple[str, ...]] = {
    PREFERENCE: ("chosen", "rejected"),
    PROMPT_COMPLETION: ("completion",),
    PROMPT_ONLY: ("prompt",),
    LANGUAGE_MODELING: ("completion",),
    UNPAIRED: ("completion",),
    RANKED: ("completions",),
    STEPWISE: ("completion",),
}


def tokenise(
    records: Records,
    tokenizer: Any,
    *,
    max_length: int = 1024,
    overlong: Overlong = "truncate",
    boundary: Boundary = "error",
    assistant_only: bool = False,
    progress: bool | None = None,
) -> TokenRows:
    """Tokenises rows of any kind.

    Args:
      records: from a reader of `prefjax.data`.
      tokenizer: a `transformers` tokeniser, as from `load_tokenizer`.
      max_length: the most tokens that prompt and completion have together, BOS and EOS included.
      overlong: what happens to a longer row. "truncate" keeps the start of a completion, as TRL's DPOTrainer
        and SFTTrainer do, so its end goes; a prompt is never cut: where it leaves no room for a token of
        every completion (in prompt-only rows: where it is longer than `max_length`), the row is skipped, and
        counted, and so is one of whose learned tokens or judged steps none is left. "skip" leaves out every
        row that is too long, as TRL's RewardTrainer does. "error" stops.
      boundary: what happens where tokens(prompt) does not begin tokens(prompt + completion). "error" stops;
        "joined" takes the tokens of the joined text, and lets the completion start at the first token that
        differs (TRL's rule; of several completions, at the earliest of them); "separate" tokenises what
        follows the text of the prompt by itself and appends it.
      assistant_only: of "messages", learn what the assistant says and nothing else; the chat template has to
        mark it with {% generation %}. Every token but the first, which has no context, is learned otherwise.
      progress: whether to show a bar; None shows it on a terminal, for 10 000 rows and more.

    Returns: token ids, prompt lengths, the line of each row, and counts.
    Raises: `InputError` with file and line.
    """
    _check_choices(max_length, overlong, boundary, assistant_only, records)
    check_tokenizer(tokenizer)
    made = _Collected(records.kind)
    counts: Counter[str] = Counter(rows=len(records.rows), kept=0, truncated=0)
    every = _rows_of_tokens(records, tokenizer, boundary, assistant_only, progress)
    for place_of_row, row in enumerate(every):
        longest = max(len(tokens) for tokens in row.tokens)
        if longest > max_length and overlong == "error":
            refuse(
                place(records.source, row.line),
                f"the row has {longest} tokens",
                f"at most {max_length} (max_length) are expected",
                'Raise max_length, or choose overlong="truncate" or "skip".',
            )
        if longest > max_length and overlong == "skip":
            counts["skipped: too long"] += 1
        elif (reason := _emptied(row, records.kind, max_length)) is not None:
            counts[f"skipped: {reason}"] += 1
        else:
            counts["kept"] += 1
            counts["truncated"] += longest > max_length
            made.add(place_of_row, row, max_length)

    if not made.lines:
        said = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        refuse(records.source, f"no row is left ({said})", "at least one is expected", "Raise max_length.")
    return made.rows(records.source, dict(counts))


def _emptied(row: RowTokens, kind: Kind, max_length: int) -> str | None:
    """Why cutting at `max_length` leaves nothing of use, or None."""
    # Room for one token of a completion; a prompt by itself may fill the limit.
    if row.prompt_length > (max_length if kind == PROMPT_ONLY else max_length - 1):
        return "prompt fills max_length"
    if row.learned is not None and not any(row.learned[:max_length]):
        return "nothing to learn"
    if kind == STEPWISE and row.ends[0] >= max_length:
        return "no step ends within max_length"
    return None


class _Collected:
    """The rows kept so far; their arrays are made once, at the end."""

    def __init__(self, kind: Kind):
        self.kind = kind
        self.tokens: dict[str, list[np.ndarray]] = {field: [] for field in FIELDS[kind]}
        self.starts: list[int] = []  # of every sequence of a field
        self.learned: list[np.ndarray] = []
        self.lines: list[int] = []
        self.places: list[int] = []
        self.labels: list[float] = []
        self.ends: list[int] = []
        self.per_row: list[int] = []  # completions or steps

    def add(self, place_of_row: int, row: RowTokens, max_length: int) -> None:
        cut = [np.array(tokens[:max_length], np.int32) for tokens in row.tokens]
        if self.kind == RANKED:
            self.tokens["completions"] += cut
        else:
            for field, tokens in zip(self.tokens.values(), cut, strict=True):
                field.append(tokens)
        self.starts += [row.prompt_length] * (len(cut) if self.kind == RANKED else 1)
        self.lines.append(row.line)
        self.places.append(place_of_row)
        if row.learned is not None:
            self.learned.append(np.array(row.learned[:max_length], bool))
        steps = sum(end < max_length for end in row.ends)
        self.ends += row.ends[:steps]
        self.labels += row.labels[:steps] if self.kind == STEPWISE else row.labels
        self.per_row.append(steps if self.kind == STEPWISE else len(cut))

    def rows(self, source: str, counts: dict[str, int]) -> TokenRows:
        starts = np.array(self.starts, np.int32)
        learned = np.concatenate(self.learned) if self.learned else None
        labels = np.array(self.labels, np.float32)
        per_row = _offsets(self.per_row)
        fields = {
            name: Sequences(np.concatenate(rows), _offsets([len(row) for row in rows]), starts, learned)
            for name, rows in self.tokens.items()
        }
        return TokenRows(
            self.kind,
            source,
            fields,
            np.array(self.lines, np.int64),
            counts,
            labels=labels if self.kind == UNPAIRED else None,
            members=per_row if self.kind == RANKED else None,
            steps=Steps(np.array(self.ends, np.int32), labels, per_row) if self.kind == STEPWISE else None,
            places=np.array(self.places, np.int64),
        )


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _rows_of_tokens(
    records: Records, tokenizer: Any, boundary: Boundary, assistant_only: bool, progress: bool | None
) -> Iterator[RowTokens]:
    read: Callable[[Sequence[Row]], Iterator[RowTokens]]
    if records.kind == LANGUAGE_MODELING:
        read = partial(spoken, records=records, tokenizer=tokenizer, assistant_only=assistant_only)
    elif records.kind == STEPWISE:
        read = partial(judged, records=records, tokenizer=tokenizer)
    else:
        read = partial(answered, records=records, tokenizer=tokenizer, boundary=boundary)
    total = len(records.rows)
    quiet = (total < 10_000 or not sys.stderr.isatty()) if progress is None else not progress
    with tqdm(desc="tokenising", total=total, unit=" rows", disable=quiet) as bar:
        for first in range(0, total, CHUNK):
            rows = records.rows[first : first + CHUNK]
            yield from read(rows)
            bar.update(len(rows))


def _check_choices(
    max_length: int, overlong: str, boundary: str, assistant_only: bool, records: Records
) -> None:
    require(max_length >= 2, "--max-length", f"{max_length}", "at least 2 is expected", "Raise it.")
    for name, got, choices in (
        ("--overlong", overlong, ("truncate", "skip", "error")),
        ("boundary", boundary, ("error", "joined", "separate")),
    ):
        require(got in choices, name, f"{got!r}", f"one of {', '.join(choices)} is expected", "Choose one.")
    require(
        not assistant_only or records.kind == LANGUAGE_MODELING,
        records.source,
        f"assistant_only was asked for, and the rows are {records.kind.name} rows",
        'rows with the column "messages" are expected',
        "Leave it out: of a prompt and a completion, the completion is learned.",
    )
