"""A byte-level BPE tokeniser of a dozen merges, written out so that no trainer decides it, and small sets."""

import json

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prefjax.data import PROMPT_COMPLETION, PROMPT_ONLY, Identity, Kind, Records, Sequences, TokenRows

SPECIAL = ["<pad>", "<s>", "</s>"]
MERGES = [
    ("e", "s"), ("y", "es"), ("Ġ", "yes"), ("h", "e"), ("t", "he"), ("Ġ", "the"), ("n", "o"), ("Ġ", "no"),
    ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ã", "©"),
]  # fmt: skip


def bpe_tokenizer(*, bos: bool = True, eos_after: bool = False, eos: bool = True) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*SPECIAL, *letters, *(a + b for a, b in MERGES)]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, MERGES))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    template = ("<s> " if bos else "") + "$A" + (" </s>" if eos_after else "")
    used = [(token, SPECIAL.index(token)) for token in ("<s>", "</s>") if token in template]
    if used:
        bpe.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    names = {"bos_token": "<s>", "pad_token": "<pad>"} | ({"eos_token": "</s>"} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def records(kind: Kind, *rows: tuple[str, ...], source: str = "rows.jsonl") -> Records:
    """Rows as `read_jsonl` would give them, on lines 1, 2, …"""
    made = [{**dict(zip(kind.columns, row, strict=True)), "line": i} for i, row in enumerate(rows, 1)]
    return Records(kind, source, made, {}, Identity("0" * 64, len(made), kind.name))


def write_jsonl(path, *rows) -> str:
    """Writes one line a row: bytes as they are, anything else as JSON."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def token_rows(count: int, fields: tuple[str, ...] = ("completion",), seed: int = 0) -> TokenRows:
    """Rows of random tokens and lengths."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(1, 5, count).astype(np.int32)

    def sequences() -> Sequences:
        offsets = np.concatenate([[0], np.cumsum(prompts + rng.integers(1, 9, count))])
        return Sequences(rng.integers(1, 99, offsets[-1]).astype(np.int32), offsets, prompts)

    kind = PROMPT_ONLY if fields == ("prompt",) else PROMPT_COMPLETION
    made = {name: sequences() for name in fields}
    return TokenRows(kind, "rows.jsonl", made, np.arange(1, count + 1), {"rows": count, "kept": count})
