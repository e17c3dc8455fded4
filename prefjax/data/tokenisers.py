"""Tokenisers from a directory: what a run needs of one, checked before anything is tokenised."""

import hashlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from prefjax.checks import refuse, require

# One of these holds the vocabulary. Without, `transformers` may make an empty tokeniser from `config.json`.
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json", "tiktoken.model",
)  # fmt: skip


def quiet_transformers() -> ModuleType:
    """`transformers`, imported when first needed, and silent about a torch that tokenisers do not need."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def load_tokenizer(directory: str | os.PathLike[str]) -> Any:
    """The `transformers` tokeniser of a Hugging Face directory, fit for `tokenise`. Reads local files only.

    A padding token is not asked for: rows are padded by their lengths, and what stands there does not matter.

    Raises: `InputError` where the directory or its tokeniser files are missing or unreadable, and as
      `check_tokenizer`.
    """
    path = Path(directory)
    where = os.fspath(directory)
    expected = "a Hugging Face directory with a tokeniser is expected"
    require(path.is_dir(), where, "there is no such directory", expected, "Check the path.")
    if not any((path / name).is_file() for name in VOCABULARIES):
        found = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
        refuse(
            where,
            f"no tokeniser files; the directory holds {found}",
            f"one of {', '.join(VOCABULARIES)} is expected",
            "Save the tokeniser there with `tokenizer.save_pretrained(DIR)`.",
        )
    try:
        tokenizer = quiet_transformers().AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # Every kind: a broken file surfaces as whatever its parser raises.
        message = " ".join(str(error).split())
        refuse(
            where,
            f"its tokeniser cannot be loaded ({type(error).__name__}: {message[:300]})",
            "tokeniser files that transformers reads are expected",
            "Save the tokeniser again, or install what the message asks for.",
        )
    check_tokenizer(tokenizer, where)
    return tokenizer


def check_tokenizer(tokenizer: Any, where: str = "the tokeniser") -> None:
    """Raises `InputError` unless EOS exists, is read as one token, and is not added to every text."""
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None or eos_id is None:
        refuse(
            where,
            "the tokeniser has no EOS token",
            "one is needed, since every completion ends with it",
            'Set "eos_token" in tokenizer_config.json.',
        )
    plain = tokenizer(eos, add_special_tokens=False)["input_ids"]
    require(
        plain == [eos_id],
        where,
        f"the EOS token {eos!r} (id {eos_id}) is read back from text as {plain}",
        f"the one id [{eos_id}] is expected",
        "Add it to the tokeniser as a special token.",
    )
    bare, dressed = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    if bare and dressed[-1:] != bare[-1:]:
        added = tokenizer.convert_ids_to_tokens(dressed[-1:])
        refuse(
            where,
            f"the tokeniser puts {added} after every text, so after prompts too",
            "a prompt has to end where its completion starts",
            "Turn it off (as with add_eos_token=False) and save the tokeniser; completions get EOS anyway.",
        )


def tokenizer_fingerprint(tokenizer: Any, *, template: bool = False) -> str:
    """A sha256 of what decides a tokeniser's ids, for the identity of a run.

    Vocabulary, merges, normaliser, pre-tokeniser, post-processor and special tokens count; padding side and
    what the last call set for truncation and padding do not. The chat template decides the ids of
    conversations, and counts with `template`: two models that read one another's ids may differ in it.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.pop("truncation", None)
        state.pop("padding", None)
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    special = {"eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
    parts = [state, special] + ([getattr(tokenizer, "chat_template", None)] if template else [])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
