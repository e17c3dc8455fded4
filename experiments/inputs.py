"""What a run reads: a tokeniser, rows prepared and tokenised, and batches of them."""

import sys
from typing import Any, NamedTuple

import jax

from experiments.problems import KINDS
from experiments.settings import Config
from prefjax.checks import require
from prefjax.data import (
    Batches,
    Records,
    TokenRows,
    batches,
    load_tokenizer,
    prepare_jsonl,
    tokenise,
    tokenizer_fingerprint,
)
from prefjax.policy import read_config


class Input(NamedTuple):
    """What a run reads, tokenised."""

    tokenizer: Any
    records: Records
    rows: TokenRows
    held_out: TokenRows | None


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
    records, rows = read_rows(config, config.data, tokenizer)
    held_out = read_rows(config, config.eval_data, tokenizer)[1] if config.eval_data else None
    return Input(tokenizer, records, rows, held_out)


def read_rows(config: Config, path: str, tokenizer: Any) -> tuple[Records, TokenRows]:
    records = prepare_jsonl(path, KINDS[config.algorithm or ""], bad=config.bad_rows)
    rows = tokenise(
        records, tokenizer, max_length=config.max_length, overlong=config.overlong or "truncate",
        boundary=config.boundary,
    )  # fmt: skip
    counts = {reason: n for reason, n in rows.counts.items() if n and reason not in ("rows", "kept")}
    left_out = {**records.skipped, **counts}
    if left_out and jax.process_index() == 0:
        print(f"{path}: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()), file=sys.stderr)
    # An id that the model does not have would be read as its last one, in silence.
    highest = max(int(field.tokens.max()) for field in rows.fields.values())
    vocabulary = read_config(config.model).vocab_size
    require(
        max(highest, tokenizer.eos_token_id) < vocabulary, f"{config.model}",
        f"its tokeniser gives ids up to {max(highest, tokenizer.eos_token_id)}", f"ids below vocab_size, {vocabulary}",
        "Take the tokeniser that belongs to the model.",
    )  # fmt: skip
    return records, rows


def row_batches(config: Config, rows: TokenRows, *, shuffle: bool | None = None) -> Batches:
    return batches(
        rows, batch_size=config.batch_size or 0, seed=config.seed,
        shuffle=config.shuffle if shuffle is None else shuffle,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
