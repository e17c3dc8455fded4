"""What will the model see? The tokens of the first rows as tables, and how long all rows are.

python -m experiments.inspect_data --model DIR --data pairs.jsonl --algorithm dpo --max-length 512

Every token of a row is a line: its place, its id, its text, what it belongs to, and whether it is learned. Where a
row was cut, what went is said. At the end: how many rows there are, were cut and were left out, and how long they are.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro

from prefjax.checks import InputError, refuse
from prefjax.data import (
    Kind,
    Records,
    TokenRows,
    end_of_turn,
    kind_of,
    load_tokenizer,
    open_table,
    parse_sources,
    prepare_all,
    tokenise,
)

WHOLE = 2**30  # a limit that no row reaches


@dataclass(frozen=True)
class Config:
    """Shows the tokens of the first rows of a data set, and counts all of them."""

    model: str
    """Hugging Face directory with the tokeniser."""
    data: str
    """What --data of experiments.align takes: a file, a directory, tfds:NAME, or several, divided by commas."""
    algorithm: str | None = None
    """Reads the columns that this algorithm reads; unless given, the kind of record that the columns look like."""
    rows: int = 3
    """How many rows of each source to show."""
    tokens: int = 60
    """The most tokens to show of a sequence: its ends, and where its completion starts; 0 shows all."""
    max_length: int = 1024
    """As in experiments.align, likewise the next four."""
    overlong: Literal["truncate", "skip", "error"] = "truncate"
    boundary: Literal["error", "joined", "separate"] = "error"
    assistant_only: bool = False
    bad_rows: Literal["error", "skip"] = "error"
    limit: int = 0
    """Counts only that many rows of each source; 0 counts all."""


def main(config: Config) -> str:
    """The report, as text."""
    tokenizer = load_tokenizer(config.model)
    sources = parse_sources(config.data)
    kind = _kind(config, sources[0].path)
    lines: list[str] = []
    for records in prepare_all(sources, kind, bad=config.bad_rows):
        if config.limit:
            records = records._replace(rows=records.rows[: config.limit])
        lines += _source(config, records, tokenizer)
    return "\n".join(lines)


def _kind(config: Config, path: str) -> Kind:
    first = next((record for _, record in open_table(path).records()), None)
    found = kind_of(first) if isinstance(first, Mapping) else None
    if config.algorithm is None:
        if found is None:
            refuse(
                path,
                "its columns look like no kind of record",
                "columns as of TRL's formats are expected",
                "Say what they are for with --algorithm.",
            )
        return found
    # Only now: objectives and all they stand on, to know what an algorithm reads.
    from experiments.problems import kinds_of

    kinds = kinds_of(config.algorithm)
    return found if found in kinds else kinds[0]


def _source(config: Config, records: Records, tokenizer: Any) -> Iterator[str]:
    choices: dict[str, Any] = {"boundary": config.boundary, "assistant_only": config.assistant_only}
    whole = tokenise(records, tokenizer, max_length=WHOLE, **choices)
    rows = whole
    if whole.longest() > config.max_length:
        rows = tokenise(records, tokenizer, max_length=config.max_length, overlong=config.overlong, **choices)
    talks = any(isinstance(records.rows[0].get(name), list) for name in ("prompt", "messages"))
    yield f"{records.source}: {records.kind.name} rows" + (", rendered by the chat template" if talks else "")
    eos = tokenizer.eos_token_id
    end = end_of_turn(tokenizer) if talks else None
    yield "completions end with " + ", ".join(
        f"{_text(tokenizer, token)} (id {token}) {where}"
        for token, where in ((end, "in a conversation"), (eos, "in a text"))
        if token is not None
    )
    width = -(-rows.longest() // 8) * 8
    for index in range(min(config.rows, len(rows.lines))):
        for name, number, sequence, cut in _sequences(rows, whole, index):
            yield ""
            yield _heading(rows, index, name, number, sequence, cut)
            yield from _table(rows, tokenizer, index, name, sequence, cut, width, config.tokens)
    yield ""
    if shown := [rows.place_of(index) for index in range(min(config.rows, len(rows.lines)))]:
        kept = set(shown)
        if early := [records.rows[place]["line"] for place in range(shown[-1]) if place not in kept]:
            yield f"left out before line {rows.lines[len(shown) - 1]}: lines " + ", ".join(map(str, early))
    yield from _counts(records, rows, whole)


def _members(rows: TokenRows, index: int) -> list[tuple[str, int]]:
    """The sequences of a row: field, and place in it."""
    if rows.members is None:
        return [(name, index) for name in rows.fields]
    return [("completions", int(i)) for i in range(rows.members[index], rows.members[index + 1])]


def _sequences(rows: TokenRows, whole: TokenRows, index: int) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Each sequence of a row: its field, its number among the completions, its place, and what was cut off."""
    at = next(at for at in range(index, len(whole.lines)) if whole.place_of(at) == rows.place_of(index))
    for number, ((name, i), (_, j)) in enumerate(
        zip(_members(rows, index), _members(whole, at), strict=True)
    ):
        kept = len(rows.fields[name].row(i))
        yield name, number, i, whole.fields[name].row(j)[kept:]


def _heading(rows: TokenRows, index: int, name: str, number: int, sequence: int, cut: np.ndarray) -> str:
    field = rows.fields[name]
    length, start = len(field.row(sequence)), int(field.prompt_lengths[sequence])
    title = f"{name} {number + 1}" if rows.members is not None else name
    parts = f"{length} tokens" if name == "prompt" else f"{length} tokens, {start} before the completion"
    label = "" if rows.labels is None else f", label {'good' if rows.labels[index] else 'bad'}"
    return f"{rows.where(index)}, {title}: {parts}{label}" + (f", {len(cut)} more CUT" if len(cut) else "")


def _table(
    rows: TokenRows,
    tokenizer: Any,
    index: int,
    name: str,
    sequence: int,
    cut: np.ndarray,
    width: int,
    most: int,
) -> Iterator[str]:
    field = rows.fields[name]
    tokens, learned = field.row(sequence), field.learned_in(sequence)
    start = int(field.prompt_lengths[sequence])
    ends: dict[int, str] = {}
    if rows.steps is not None:
        here = slice(rows.steps.offsets[index], rows.steps.offsets[index + 1])
        told = zip(rows.steps.ends[here].tolist(), rows.steps.labels[here].tolist(), strict=True)
        ends = {end: "right" if label else "wrong" for end, label in told}
    yield f"{'place':>6} {'id':>7}  {'part':<10} {'learned':<7}  token"
    before = -1
    for place in _chosen(len(tokens), start, most):
        if place > before + 1:
            yield f"{'…':>6} {place - before - 1:>7} more"
        before = place
        part = "prompt" if name == "prompt" or (place < start and field.learned is None) else "completion"
        if field.learned is not None:
            part = "text"
        mark = (
            ends.get(place, "")
            if rows.steps is not None
            else "yes"
            if learned[place] and name != "prompt"
            else ""
        )
        yield f"{place:>6} {tokens[place]:>7}  {part:<10} {mark:<7}  {_text(tokenizer, int(tokens[place]))}"
    if len(cut):
        some = repr(tokenizer.decode(cut[:12].tolist()))
        yield f"{'CUT':>6} {len(cut):>7}  from {some} on"
    if len(tokens) < width:
        yield f"{'':>6} {0:>7}  {'padding':<10} {'':<7}  {width - len(tokens)} times, up to {width}"


def _chosen(length: int, start: int, most: int) -> Sequence[int]:
    """Places to show: all, or the ends and the surroundings of `start`."""
    if not most or length <= most:
        return range(length)
    third = max(most // 3, 1)
    around = range(max(start - third // 2, 0), min(start + third - third // 2, length))
    return sorted({*range(min(third, length)), *around, *range(max(length - third, 0), length)})


def _text(tokenizer: Any, token: int) -> str:
    """A token as one would write it; a part of a letter as the vocabulary has it."""
    said = tokenizer.decode([token])
    return tokenizer.convert_ids_to_tokens(token) if not said or "\ufffd" in said else repr(said)


def _counts(records: Records, rows: TokenRows, whole: TokenRows) -> Iterator[str]:
    # Before cutting: what --max-length would have to be.
    yield f"{'rows':<40} {len(records.rows) + sum(records.skipped.values()):>9}"
    for reason, count in records.skipped.items():
        yield f"{'  bad: ' + reason:<40} {count:>9}"
    for reason, count in rows.counts.items():
        if reason != "rows":
            yield f"{'  ' + reason:<40} {count:>9}"
    quantiles = (0, 0.5, 0.9, 0.99, 1)
    yield f"{'tokens, before anything is cut':<40} " + " ".join(
        f"{name:>9}" for name in ("least", "median", "90 %", "99 %", "most")
    )
    for name, field in whole.fields.items():
        lengths = {name: field.lengths()}
        if name != "prompt" and field.learned is None:
            lengths |= {
                f"{name}, its prompt": field.prompt_lengths,
                f"{name}, without it": field.lengths() - field.prompt_lengths,
            }
        for what, of in lengths.items():
            numbers = np.quantile(of, quantiles, method="higher").astype(int)
            yield f"{'  ' + what:<40} " + " ".join(f"{number:>9}" for number in numbers)


def command_line(arguments: Sequence[str] | None = None) -> None:
    """Errors that a user can mend are one line, not a traceback; a reader who has seen enough is no error."""
    try:
        print(main(tyro.cli(Config, args=arguments, description=__doc__)), flush=True)
    except InputError as error:
        # Only now: what it stands on takes a while to import.
        from experiments.settings import as_flags

        print(f"error: {as_flags(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # As Python's documentation advises, so that closing standard output at exit does not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    command_line()
