"""Text to token ids: prompt, then completion, then EOS, cut exactly where the completion starts.

What is done is what TRL does with text columns (its `DPOTrainer` and `SFTTrainer`): the text of EOS is
appended to a completion unless it is there, prompt + completion is tokenised as one text with the special
tokens of the tokeniser, and an over-long row keeps its start. Where a token reaches across the boundary, TRL
warns once and goes on; here it is an error with the row's line and both token windows, unless asked for.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from prefjax.checks import refuse, require
from prefjax.data.records import PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY, Kind, Records, place
from prefjax.data.tokenisers import check_tokenizer

Overlong = Literal["truncate", "skip", "error"]
Boundary = Literal["error", "joined", "separate"]

CHUNK = 1024  # Rows a call: a fast tokeniser works on the texts of a call in parallel.
# What each kind becomes in a batch: its fields, and the text column that continues the prompt in each.
FIELDS: dict[Kind, dict[str, str | None]] = {
    PREFERENCE: {"chosen": "chosen", "rejected": "rejected"},
    PROMPT_COMPLETION: {"completion": "completion"},
    PROMPT_ONLY: {"prompt": None},
}


class Sequences(NamedTuple):
    """Token rows laid end to end: row i is `tokens[offsets[i] : offsets[i + 1]]`."""

    tokens: Int[np.ndarray, " N"]  # int32
    offsets: Int[np.ndarray, " rows+1"]  # int64
    prompt_lengths: Int[np.ndarray, " rows"]  # int32; a completion starts there

    def row(self, index: int) -> Int[np.ndarray, " length"]:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> Int[np.ndarray, " rows"]:
        return np.diff(self.offsets).astype(np.int32)


class TokenRows(NamedTuple):
    """The rows that survived tokenising, by field: chosen and rejected, or completion, or prompt."""

    kind: Kind
    source: str
    fields: dict[str, Sequences]
    lines: Int[np.ndarray, " rows"]  # int64: where in the source each row stood
    counts: dict[str, int]  # rows, kept, truncated, and skipped by reason

    def longest(self) -> int:
        """Tokens of the longest row of any field."""
        return max(int(sequences.lengths().max()) for sequences in self.fields.values())

    def longest_completion(self) -> int:
        """Tokens of the longest completion of any field, EOS included; 0 for prompts."""
        return max(int((s.lengths() - s.prompt_lengths).max()) for s in self.fields.values())


def tokenise(
    records: Records,
    tokenizer: Any,
    *,
    max_length: int = 1024,
    overlong: Overlong = "truncate",
    boundary: Boundary = "error",
    progress: bool | None = None,
) -> TokenRows:
    """Tokenises rows of any kind.

    Args:
      records: from `read_jsonl` or `prepare_jsonl`.
      tokenizer: a `transformers` tokeniser, as from `load_tokenizer`.
      max_length: the most tokens that prompt and completion have together, BOS and EOS included.
      overlong: what happens to a longer row. "truncate" keeps the start of a completion, as TRL's DPOTrainer
        and SFTTrainer do, so its EOS goes; a prompt is never cut: where it leaves no room for a token of
        every completion (in prompt-only rows: where it is longer than `max_length`), the row is skipped, and
        counted. "skip" leaves out every row that is too long, as TRL's RewardTrainer does. "error" stops.
      boundary: what happens where tokens(prompt) does not begin tokens(prompt + completion), since a token
        reaches across. "error" stops; "joined" takes the tokens of the joined text, and lets the completion
        start at the first token that differs (TRL's rule; of a pair, at the earlier of the two); "separate"
        tokenises the completion by itself and appends it.
      progress: whether to show a bar; None shows it on a terminal, for 10 000 rows and more.

    Returns: token ids, prompt lengths, the line of each row, and counts.
    Raises: `InputError` with file and line.
    """
    _check_choices(max_length, overlong, boundary)
    check_tokenizer(tokenizer)
    fields = FIELDS[records.kind]
    counts: Counter[str] = Counter(rows=len(records.rows), kept=0, truncated=0)
    kept: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    prompt_lengths: list[int] = []
    lines: list[int] = []

    for row in _rows_of_tokens(records, tokenizer, fields, boundary, progress):
        start = row.prompt_length
        longest = max(len(tokens) for tokens in row.tokens)
        # Room for one token of a completion; a prompt by itself may fill the limit.
        room = max_length if records.kind == PROMPT_ONLY else max_length - 1
        if longest > max_length and overlong == "error":
            refuse(
                place(records.source, row.line),
                f"the row has {longest} tokens",
                f"at most {max_length} (max_length) are expected",
                'Raise max_length, or choose overlong="truncate" or "skip".',
            )
        if longest > max_length and overlong == "skip":
            counts["skipped: too long"] += 1
        elif start > room:
            counts["skipped: prompt fills max_length"] += 1
        else:
            counts["kept"] += 1
            counts["truncated"] += longest > max_length
            for field, tokens in zip(fields, row.tokens, strict=True):
                kept[field].append(np.array(tokens[:max_length], np.int32))
            prompt_lengths.append(start)
            lines.append(row.line)

    if not lines:
        said = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        refuse(records.source, f"no row is left ({said})", "at least one is expected", "Raise max_length.")
    starts = np.array(prompt_lengths, np.int32)
    return TokenRows(
        records.kind,
        records.source,
        {field: _flat(rows, starts) for field, rows in kept.items()},
        np.array(lines, np.int64),
        dict(counts),
    )


class _Row(NamedTuple):
    line: int
    prompt_length: int
    tokens: list[list[int]]  # of each field, whole


def _rows_of_tokens(records: Records, tokenizer, fields, boundary: Boundary, progress) -> Iterator[_Row]:
    total = len(records.rows)
    quiet = (total < 10_000 or not sys.stderr.isatty()) if progress is None else not progress
    with tqdm(desc="tokenising", total=total, unit=" rows", disable=quiet) as bar:
        for first in range(0, total, CHUNK):
            rows = records.rows[first : first + CHUNK]
            prompts = _ids(tokenizer, [str(row["prompt"]) for row in rows])
            wholes = {
                field: _wholes(tokenizer, rows, prompts, column, boundary) for field, column in fields.items()
            }
            for i, row in enumerate(rows):
                whole = [wholes[field][i] for field in fields]
                line = int(row["line"])
                start = min(_common_prefix(prompts[i], tokens) for tokens in whole)
                if start < len(prompts[i]) and boundary == "error":
                    field, tokens = next(
                        (f, w[i]) for f, w in wholes.items() if _common_prefix(prompts[i], w[i]) == start
                    )
                    _refuse_boundary(place(records.source, line), tokenizer, field, prompts[i], tokens, start)
                # The first token of a row has no context, so no completion can start with it.
                require(
                    start > 0,
                    place(records.source, line),
                    "the prompt has no token of its own",
                    "at least one token has to stand before the completion",
                    "Drop the line, or use a tokeniser that adds BOS.",
                )
                yield _Row(line, start, whole)
            bar.update(len(rows))


def _wholes(tokenizer, rows: Sequence, prompts: list[list[int]], column: str | None, boundary: Boundary):
    """The tokens of prompt and completion of each row, or of the prompt where there is no completion."""
    if column is None:
        return prompts
    ended = [_with_eos(str(row[column]), tokenizer.eos_token) for row in rows]
    if boundary == "separate":
        completions = _ids(tokenizer, ended, add_special_tokens=False)
        return [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    return _ids(tokenizer, [str(row["prompt"]) + text for row, text in zip(rows, ended, strict=True)])


def _with_eos(text: str, eos: str) -> str:
    return text if text.endswith(eos) else text + eos


def _ids(tokenizer, texts: list[str], add_special_tokens: bool = True) -> list[list[int]]:
    # `verbose=False`: rows longer than the model's context are our business, and are counted.
    return tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def _common_prefix(a: list[int], b: list[int]) -> int:
    if b[: len(a)] == a:  # The rule, and quick.
        return len(a)
    return next(i for i in range(len(a)) if i >= len(b) or a[i] != b[i])


def _refuse_boundary(
    where: str, tokenizer, field: str, prompt: list[int], whole: list[int], start: int
) -> None:
    window = slice(max(start - 3, 0), start + 4)
    alone = tokenizer.convert_ids_to_tokens(prompt[window])
    joined = tokenizer.convert_ids_to_tokens(whole[window])
    name = {"chosen": "prompt + chosen", "rejected": "prompt + rejected"}.get(field, "prompt + completion")
    refuse(
        where,
        f"a token reaches across the end of the prompt: from token {window.start} on, the prompt alone reads "
        f"{alone}, {name} reads {joined}",
        "the tokens of the prompt have to begin those of both together",
        "Move the space that ends the prompt to the start of the completion, or choose "
        'boundary="joined" (the completion starts at the first token that differs, as in TRL) or "separate".',
    )


def _flat(rows: list[np.ndarray], prompt_lengths: np.ndarray) -> Sequences:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Sequences(np.concatenate(rows), offsets, prompt_lengths)


def _check_choices(max_length: int, overlong: str, boundary: str) -> None:
    require(
        max_length >= 2,
        "--max-length",
        f"{max_length}",
        "at least 2 is expected",
        "Raise it.",
    )
    for name, got, choices in (
        ("--overlong", overlong, ("truncate", "skip", "error")),
        ("boundary", boundary, ("error", "joined", "separate")),
    ):
        require(got in choices, name, f"{got!r}", f"one of {', '.join(choices)} is expected", "Choose one.")
