"""What a run reads: a tokeniser, rows prepared and tokenised, and batches of them."""

import math
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.problems import Shape, kinds_of
from experiments.settings import Config, settings_of
from prefjax.align import FROM_DATA, LIMITS, PAIRED_LOSSES
from prefjax.checks import require
from prefjax.data import (
    LANGUAGE_MODELING,
    Batches,
    Records,
    TokenRows,
    batches,
    concatenate,
    end_of_turn,
    is_conversation,
    kind_of,
    load_tokenizer,
    open_table,
    pack,
    parse_sources,
    prepare,
    tokenise,
    tokenizer_fingerprint,
)
from prefjax.policy import read_config


class Rows(NamedTuple):
    """Rows of one or several sources, as they were read and as tokens."""

    records: tuple[Records, ...]
    tokens: TokenRows
    weights: (
        tuple[float, ...] | None
    )  # the share of each source in what is drawn; None: every row once an epoch

    numbers: Mapping[str, np.ndarray] = MappingProxyType({})  # of each row: columns that the loss reads

    def identity(self) -> dict:
        sources = [records.identity._asdict() for records in self.records]
        return {"sources": sources, "weights": self.weights, **self.tokens.counts}

    def originals(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        """The rows, as they were read, that token rows were made of."""
        tokens = self.tokens
        return [self.records[tokens.source_of(i)].rows[tokens.place_of(i)] for i in indices]

    @property
    def conversational(self) -> bool:
        """Whether what the tokens are depends on a chat template."""
        return any(is_conversation(value) for records in self.records for value in records.rows[0].values())


class Input(NamedTuple):
    """What a run reads, tokenised."""

    tokenizer: Any
    stop_tokens: tuple[int, ...]
    rows: Rows
    held_out: Rows | None


def read_input(config: Config) -> Input:
    """Prepared rows and their tokens; what was left out is said."""
    tokenizer = load_tokenizer(config.model)
    for name in ("reference", "judge"):
        directory = getattr(config, name)
        if directory and directory != config.model:
            same = tokenizer_fingerprint(load_tokenizer(directory)) == tokenizer_fingerprint(tokenizer)
            require(
                same, f"--{name}", f"the tokeniser of {directory} is another one", f"that of --model, {config.model}",
                "Its token ids would be read as other words. Train it from the same start.",
            )  # fmt: skip
    rows = read_rows(config, config.data, tokenizer)
    held_out = read_rows(config, config.eval_data, tokenizer) if config.eval_data else None
    stop = [tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return Input(tokenizer, tuple(dict.fromkeys(t for t in stop if t is not None)), rows, held_out)


def read_rows(config: Config, data: str, tokenizer: Any) -> Rows:
    sources = parse_sources(data, where="--data")
    records = tuple(prepare_any(source.path, config) for source in sources)
    parts = []
    spoken = any(each.kind == LANGUAGE_MODELING for each in records)
    for each in records:
        rows = tokenise(
            each, tokenizer, max_length=config.max_length, overlong=config.overlong or "truncate",
            boundary=config.boundary,
            assistant_only=config.assistant_only and (each.kind == LANGUAGE_MODELING or not spoken),
        )  # fmt: skip
        counts = {reason: n for reason, n in rows.counts.items() if n and reason not in ("rows", "kept")}
        left_out = {**each.skipped, **counts}
        if left_out and jax.process_index() == 0:
            print(
                f"{each.source}: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()),
                file=sys.stderr,
            )
        parts.append(rows)
    rows = concatenate(parts)
    # An id that the model does not have would be read as its last one, in silence.
    highest = max(int(field.tokens.max()) for field in rows.fields.values())
    vocabulary = read_config(config.model).vocab_size
    require(
        max(highest, tokenizer.eos_token_id) < vocabulary, f"{config.model}",
        f"its tokeniser gives ids up to {max(highest, tokenizer.eos_token_id)}", f"ids below vocab_size, {vocabulary}",
        "Take the tokeniser that belongs to the model.",
    )  # fmt: skip
    weights = tuple(float(source.weight or 0) for source in sources)
    found = Rows(records, rows, weights if sources[0].weight is not None else None)
    return found._replace(numbers=columns_of(found, config) if config.algorithm == "dpo" else {})


def columns_of(rows: Rows, config: Config) -> dict[str, np.ndarray]:
    """The columns of numbers that a loss reads; where no row has any, --loss-settings, or what the label alone says."""
    asked = sorted(PAIRED_LOSSES[config.which_loss].columns)
    extras = [row["extras"] for row in rows.originals(range(len(rows.tokens.lines)))] if asked else []
    if any(name in row for row in extras for name in asked):
        given = [name for name in asked if name in settings_of(config)]
        require(
            not given, "--loss-settings", f"{', '.join(given)}, and a column in {rows.tokens.source}",
            "one of the two", "Leave the setting out.",
        )  # fmt: skip
        return {name: column_of(rows, name, [row.get(name) for row in extras]) for name in asked}
    constant = {name: settings_of(config).get(name, FROM_DATA[name]) for name in asked}
    for name, value in constant.items():
        print(f'no column "{name}": every pair has {value:g}.', file=sys.stderr)
    return {name: np.full(len(extras), value, np.float32) for name, value in constant.items()}


def column_of(rows: Rows, name: str, found: list) -> np.ndarray:
    """A column of numbers, for each token row."""
    tokens, (low, high) = rows.tokens, LIMITS.get(name, (-math.inf, math.inf))
    values = np.zeros(len(found), np.float32)
    for i, value in enumerate(found):
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        good = good and math.isfinite(value)
        require(
            good, tokens.where(i), f'"{name}" is {value!r}', "a number, as in other rows",
            "Complete the column, or leave it out everywhere.",
        )  # fmt: skip
        values[i] = value
    return values


def prepare_any(path: str, config: Config) -> Records:
    """Rows of the kind that the algorithm learns from; of several kinds, the one that the first row's columns fit."""
    first, *others = kinds_of(config.algorithm or "")
    kind = first
    if others:
        row = next((record for _, record in open_table(path).records() if isinstance(record, Mapping)), {})
        found = kind_of(row)
        kind = found if found in others else first
    return prepare(path, kind, bad=config.bad_rows)


def shape_of(source: Input, config: Config) -> Shape:
    """What the longest rows say of a program's arrays."""
    both = [rows.tokens for rows in (source.rows, source.held_out) if rows is not None]
    targets = 0
    if config.packing:
        for rows in (source.rows, source.held_out):
            if rows is not None:
                data = row_batches(config, rows)
                targets = max(targets, int(data.about["targets"]))
                data.close()
    return Shape(max(rows.longest_completion() for rows in both), targets)


def row_batches(config: Config, rows: Rows, *, shuffle: bool | None = None) -> Batches:
    common: dict[str, Any] = {
        "batch_size": config.batch_size or 0, "seed": config.seed,
        "shuffle": config.shuffle if shuffle is None else shuffle,
        "process_index": jax.process_index(), "process_count": jax.process_count(),
    }  # fmt: skip
    if config.packing:
        require(
            rows.weights is None,
            "--packing",
            "sources with weights",
            "sources without",
            "Leave out one of the two.",
        )
        return pack(rows.tokens, width=-(-config.max_length // 8) * 8, **common)
    weights = rows.weights if shuffle is None else None
    return batches(rows.tokens, weights=weights, numbers=rows.numbers, **common)
