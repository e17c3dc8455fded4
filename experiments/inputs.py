"""What a run reads: a tokeniser, rows prepared and tokenised, and batches of them."""

import sys
from typing import Any, NamedTuple

import jax

from experiments.problems import KINDS
from experiments.settings import Config
from prefjax.data import Batches, Identity, TokenRows, batches, load_tokenizer, prepare_jsonl, tokenise


class Input(NamedTuple):
    """What a run reads, tokenised."""

    tokenizer: Any
    rows: TokenRows
    held_out: TokenRows | None
    identity: Identity  # of the file


def read_input(config: Config) -> Input:
    """Prepared rows and their tokens; what was left out is said."""
    tokenizer = load_tokenizer(config.model)
    kind = KINDS[config.algorithm or ""]

    def read(path: str) -> tuple[TokenRows, Identity]:
        records = prepare_jsonl(path, kind, bad=config.bad_rows)
        rows = tokenise(
            records, tokenizer, max_length=config.max_length, overlong=config.overlong or "truncate"
        )
        left_out = {
            **records.skipped,
            **{k: n for k, n in rows.counts.items() if k not in ("rows", "kept") and n},
        }
        if left_out and jax.process_index() == 0:
            print(f"{path}: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()), file=sys.stderr)
        return rows, records.identity

    rows, who = read(config.data)
    return Input(tokenizer, rows, read(config.eval_data)[0] if config.eval_data else None, who)


def row_batches(config: Config, rows: TokenRows, *, shuffle: bool | None = None) -> Batches:
    return batches(
        rows, batch_size=config.batch_size or 0, seed=config.seed,
        shuffle=config.shuffle if shuffle is None else shuffle,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
