"""The tokens of one row, whole: where its completion starts, which tokens are learned, where its steps end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from prefjax.checks import refuse, require
from prefjax.data import chat
from prefjax.data.chat import Text
from prefjax.data.records import PREFERENCE, PROMPT_ONLY, RANKED, UNPAIRED, Records, place

Boundary = Literal["error", "joined", "separate"]
Row = Mapping[str, Any]

SEPARATOR = "\n"  # After each step of a stepwise row, as in TRL's PRMTrainer.


class RowTokens(NamedTuple):
    """A row before it is cut to a length."""

    line: int
    prompt_length: int
    tokens: Sequence[list[int]]  # of each field, or of each of the ranked completions
    learned: Sequence[bool] | None = None
    ends: Sequence[int] = ()  # of steps
    labels: Sequence[float] = ()  # of steps, or of the row


def answered(
    rows: Sequence[Row], records: Records, tokenizer: Any, boundary: Boundary
) -> Iterator[RowTokens]:
    """Prompts with one completion, two, several, or none."""
    wheres = [place(records.source, int(row["line"])) for row in rows]
    opening = [chat.prompt_text(tokenizer, row, where) for row, where in zip(rows, wheres, strict=True)]
    prompts = _encode(tokenizer, opening)
    if records.kind == PROMPT_ONLY:
        for row, where, prompt in zip(rows, wheres, prompts, strict=True):
            _require_context(len(prompt), where)
            yield RowTokens(int(row["line"]), len(prompt), [prompt])
        return
    columns = {PREFERENCE: ("chosen", "rejected")}.get(records.kind, ("completion",))
    answers = [row["completions"] if records.kind == RANKED else [row[c] for c in columns] for row in rows]
    whole = [
        chat.whole_text(tokenizer, row, answer, where)
        for row, where, several in zip(rows, wheres, answers, strict=True)
        for answer in several
    ]
    if boundary == "separate":
        openings = [text for text, several in zip(opening, answers, strict=True) for _ in several]
        beginnings = [prompt for prompt, several in zip(prompts, answers, strict=True) for _ in several]
        tokens = _apart(tokenizer, openings, beginnings, whole)
    else:
        tokens = _encode(tokenizer, whole)
    taken = 0
    for row, where, prompt, several in zip(rows, wheres, prompts, answers, strict=True):
        here = tokens[taken : taken + len(several)]
        taken += len(several)
        shared = [_common_prefix(prompt, of_one) for of_one in here]
        start = min(shared)
        if start < len(prompt) and boundary == "error":
            which = shared.index(start)
            name = f"completions[{which}]" if records.kind == RANKED else columns[which]
            talk = chat.is_conversation(row["prompt"])
            _refuse_boundary(where, tokenizer, name, prompt, here[which], start, talk)
        _require_context(start, where)
        labels = [float(row["label"])] if records.kind == UNPAIRED else []
        yield RowTokens(int(row["line"]), start, here, labels=labels)


def spoken(
    rows: Sequence[Row], records: Records, tokenizer: Any, assistant_only: bool
) -> Iterator[RowTokens]:
    """Whole texts and conversations."""
    if assistant_only:
        pairs = [
            chat.assistant_tokens(tokenizer, row, place(records.source, int(row["line"]))) for row in rows
        ]
    else:
        texts = [
            Text(chat.render(tokenizer, row["messages"], row, place(records.source, int(row["line"]))), True)
            if "messages" in row
            else Text(chat.with_eos(str(row["text"]), tokenizer.eos_token), False)
            for row in rows
        ]
        pairs = [(tokens, [True] * len(tokens)) for tokens in _encode(tokenizer, texts)]
    for row, (tokens, learned) in zip(rows, pairs, strict=True):
        # The first token has no context, so nothing predicts it.
        learned = [False, *learned[1:]]
        start = learned.index(True) if True in learned else 1
        yield RowTokens(int(row["line"]), start, [tokens], learned)


def judged(rows: Sequence[Row], records: Records, tokenizer: Any) -> Iterator[RowTokens]:
    """A prompt and its steps, each ended by the separator, on whose last token its label stands.

    As in TRL's PRMTrainer every piece is tokenised by itself, BOS, if the tokeniser has one, comes first, and
    nothing ends the last step but its separator.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    separator = _ids(tokenizer, [SEPARATOR], add_special_tokens=False)[0]
    prompts = _ids(tokenizer, [str(row["prompt"]) for row in rows], add_special_tokens=False)
    steps = iter(_ids(tokenizer, [s for row in rows for s in row["completions"]], add_special_tokens=False))
    for row, prompt in zip(rows, prompts, strict=True):
        tokens = bos + prompt
        _require_context(len(tokens), place(records.source, int(row["line"])))
        start, ends = len(tokens), []
        for _ in row["completions"]:
            tokens += next(steps) + separator
            ends.append(len(tokens) - 1)
        yield RowTokens(
            int(row["line"]), start, [tokens], None, ends, [float(label) for label in row["labels"]]
        )


def _encode(tokenizer: Any, texts: Sequence[Text]) -> list[list[int]]:
    """The tokens of texts; the tokeniser's special tokens go around those that no template has dressed."""
    templated = [text.templated for text in texts]
    if all(templated) or not any(templated):
        return _ids(tokenizer, [text.text for text in texts], add_special_tokens=not any(templated))
    plain = iter(_encode(tokenizer, [text for text in texts if not text.templated]))
    dressed = iter(_encode(tokenizer, [text for text in texts if text.templated]))
    return [next(dressed if text.templated else plain) for text in texts]


def _apart(
    tokenizer: Any, openings: Sequence[Text], prompts: Sequence[list[int]], wholes: Sequence[Text]
) -> list[list[int]]:
    """Tokens of prompts, then tokens of what follows them in whole texts."""
    shared = [
        _common_prefix(opening.text, whole.text) for opening, whole in zip(openings, wholes, strict=True)
    ]
    texts = [whole.text[n:] for whole, n in zip(wholes, shared, strict=True)]
    after = _ids(tokenizer, texts, add_special_tokens=False)
    # Where a template renders a prompt otherwise before a completion, what both have in common is the prompt.
    before = [
        prompt
        if n == len(opening.text)
        else _encode(tokenizer, [Text(opening.text[:n], opening.templated)])[0]
        for opening, prompt, n in zip(openings, prompts, shared, strict=True)
    ]
    return [a + b for a, b in zip(before, after, strict=True)]


def _ids(tokenizer: Any, texts: list[str], add_special_tokens: bool) -> list[list[int]]:
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


def _common_prefix(a: Any, b: Any) -> int:
    """How many tokens, or characters, two sequences begin with in common."""
    if b[: len(a)] == a:  # The rule, and quick.
        return len(a)
    return next(i for i in range(len(a)) if i >= len(b) or a[i] != b[i])


def _require_context(start: int, where: str) -> None:
    # The first token of a row has no context, so no completion can start with it.
    require(
        start > 0,
        where,
        "the prompt has no token of its own",
        "at least one token has to stand before the completion",
        "Drop the line, or use a tokeniser that adds BOS.",
    )


def _refuse_boundary(
    where: str, tokenizer: Any, name: str, prompt: list[int], whole: list[int], start: int, talk: bool
) -> None:
    window = slice(max(start - 3, 0), start + 4)
    alone = tokenizer.convert_ids_to_tokens(prompt[window])
    joined = tokenizer.convert_ids_to_tokens(whole[window])
    why = (
        "the chat template renders the prompt otherwise when a completion follows"
        if talk
        else "a token reaches across the end of the prompt"
    )
    mend = (
        "Take a chat template that renders both alike"
        if talk
        else "Move the space that ends the prompt to the start of the completion"
    )
    refuse(
        where,
        f"{why}: from token {window.start} on, the prompt alone reads {alone}, prompt + {name} reads {joined}",
        "the tokens of the prompt have to begin those of both together",
        f'{mend}, or choose boundary="joined" (the completion starts at the first token that differs, as in '
        'TRL) or "separate".',
    )
