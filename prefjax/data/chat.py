"""Conversations to text, through the chat template that the tokeniser carries.

What is done is what TRL's trainers do: a prompt is rendered with the header of the turn to come, prompt and
completion are rendered as one conversation, and what the template does with thinking, tools and the end of a
turn is left to it. No special token is added to what it renders, and no EOS.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefjax.checks import refuse, require

Messages = Sequence[Mapping[str, Any]]
# What is asked of a template for each text, so no row may ask otherwise.
OURS = (
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "return_dict",
    "return_assistant_tokens_mask",
)


class Text(NamedTuple):
    """A text to tokenise, and whether a template has put its special tokens in place already."""

    text: str
    templated: bool


def is_conversation(value: object) -> bool:
    """Whether a column's value is a list of messages; otherwise it is a string."""
    return isinstance(value, list)


def prompt_text(tokenizer: Any, row: Mapping[str, Any], where: str) -> Text:
    """A row's prompt, ready for a completion.

    A conversation ends with the header of the assistant's turn (`add_generation_prompt`), or, where the
    assistant has begun it, within that turn (`continue_final_message`).
    """
    prompt = row["prompt"]
    if not is_conversation(prompt):
        return Text(str(prompt), templated=False)
    begun = prompt[-1].get("role") == "assistant"
    how = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    return Text(render(tokenizer, prompt, row, where, **how), templated=True)


def whole_text(tokenizer: Any, row: Mapping[str, Any], completion: Any, where: str) -> Text:
    """A row's prompt and one completion of it; the text of EOS ends it, unless it is a conversation."""
    prompt = row["prompt"]
    if not is_conversation(prompt):
        return Text(str(prompt) + with_eos(str(completion), tokenizer.eos_token), templated=False)
    return Text(render(tokenizer, [*prompt, *completion], row, where), templated=True)


def with_eos(text: str, eos: str) -> str:
    """`text`, ended by the text of EOS."""
    return text if text.endswith(eos) else text + eos


def render(tokenizer: Any, messages: Messages, row: Mapping[str, Any], where: str, **how: Any) -> str:
    """One conversation as text. A row's extra columns `tools` and `chat_template_kwargs` reach the template.

    Raises: `InputError` where the tokeniser has no chat template, or where it refuses the conversation.
    """
    return _apply(tokenizer, messages, row, where, tokenize=False, **how)


def assistant_tokens(tokenizer: Any, row: Mapping[str, Any], where: str) -> tuple[list[int], list[bool]]:
    """The tokens of a row's conversation, and which of them an assistant says.

    Those are what the template has between {% generation %} and {% endgeneration %}.

    Raises: `InputError` where the template marks nothing, or no message is an assistant's.
    """
    if "messages" not in row:
        refuse(
            where, "the row is text", "assistant_only needs messages", "Drop the line, or learn whole texts."
        )
    messages = row["messages"]
    require_template(tokenizer)
    template = tokenizer.get_chat_template(tools=_tools(row, where))
    if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
        refuse(
            _name(tokenizer),
            "its chat template has no {% generation %}, so it does not say which tokens are the assistant's",
            "assistant_only needs a template that marks them",
            "Put {% generation %} and {% endgeneration %} around an assistant's message in the template, or "
            "learn whole conversations.",
        )
    made = _apply(
        tokenizer, messages, row, where, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [bool(mark) for mark in made["assistant_masks"]]
    require(
        any(said),
        where,
        "no token of the conversation is an assistant's",
        "assistant_only learns the assistant's messages",
        "Drop the line, or learn whole conversations.",
    )
    return list(made["input_ids"]), said


def end_of_turn(tokenizer: Any) -> int | None:
    """The token that ends an assistant's turn in the chat template, where a sampler stops; None without one.

    It is EOS in some families and another token in others, whose EOS ends a whole text.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    word = "prefjax"
    messages = [{"role": "user", "content": word}, {"role": "assistant", "content": word}]
    tail = render(tokenizer, messages, {}, "the chat template").rpartition(word)[2]
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in ids if token in special), None)


def require_template(tokenizer: Any) -> None:
    """Raises `InputError` unless the tokeniser has a chat template."""
    require(
        bool(getattr(tokenizer, "chat_template", None)),
        _name(tokenizer),
        "it has no chat template",
        "rows of messages need one",
        "Take the tokeniser of the chat model, add chat_template.jinja to its directory, or store text columns.",
    )


def _apply(tokenizer: Any, messages: Messages, row: Mapping[str, Any], where: str, **how: Any) -> Any:
    require_template(tokenizer)
    # Tables write null where a message, or a row's settings, lack what others have; templates read it as a value.
    said = [{key: value for key, value in message.items() if value is not None} for message in messages]
    wishes = (row.get("extras") or {}).get("chat_template_kwargs") or {}
    if not isinstance(wishes, Mapping) or any(name in OURS for name in wishes):
        refuse(
            where,
            f'"chat_template_kwargs" is {wishes!r}',
            f"an object of the template's own settings is expected, without {', '.join(OURS)}",
            "Mend the line.",
        )
    wishes = {name: value for name, value in wishes.items() if value is not None}
    try:
        return tokenizer.apply_chat_template(said, **{"tools": _tools(row, where), **wishes, **how})
    except Exception as error:  # Every kind: a template raises what it likes, in words meant for the user.
        message = " ".join(str(error).split())
        refuse(
            where,
            f"the chat template cannot render the conversation ({type(error).__name__}: {message[:300]})",
            "messages in roles and an order that the template knows are expected",
            "Mend or drop the line, or take a template that allows them.",
        )


def _tools(row: Mapping[str, Any], where: str) -> Any:
    tools = (row.get("extras") or {}).get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            refuse(
                where,
                f'"tools" is text that is not JSON ({error})',
                "a list of tools is expected",
                "Mend it.",
            )
    # Of an empty list, templates print the preamble to tools that are not there.
    return tools or None


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or "the tokeniser"
