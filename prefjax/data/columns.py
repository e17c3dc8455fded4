"""What the value of one column has to be, text or a list of messages or labels, and the fault where it is not."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """Why a row cannot be used: a short reason to count by, and the three parts of an error."""

    reason: str
    got: str
    expected: str
    todo: str


DROP = 'Mend or drop the line, or load with bad="skip".'
TEXT = "a string is expected"
MESSAGES = "a list of messages is expected"
EITHER = "a string, or a list of messages, is expected"


def is_conversational(value: object) -> bool:
    """Whether a column's value is a list of messages, such as `{"role": "user", "content": "Hi"}`."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def chatml(messages: Sequence[Any]) -> list[Any]:
    """The messages with "from" and "value" renamed to "role" and "content", as TRL's `maybe_convert_to_chatml`.

    Nothing else changes: a role "human" or "gpt" stays one, and the chat template has to know it.
    """
    names = {"from": "role", "value": "content"}
    return [
        {names.get(key, key): value for key, value in message.items()}
        if isinstance(message, Mapping)
        else message
        for message in messages
    ]


def text_fault(name: str, value: object, expected: str, needs: str) -> Fault | None:
    """What is wrong with text or messages; `expected` is `TEXT`, `MESSAGES` or `EITHER`, `needs` is the kind's."""
    if expected != TEXT and isinstance(value, list) and is_conversational(value):
        return _messages_fault(name, value, needs)
    if expected != TEXT and value == []:
        return Fault("empty", f'"{name}" has no messages', needs, DROP)
    if expected == MESSAGES or not isinstance(value, str):
        return Fault("wrong type", f'"{name}" is {spoken(value)}', expected, DROP)
    if not value:
        return Fault("empty", f'"{name}" is empty', needs, DROP)
    return _unicode_fault(name, value)


def list_fault(name: str, value: object, least: int) -> Fault | None:
    """What is wrong with a list of `least` things or more."""
    if not isinstance(value, list):
        return Fault("wrong type", f'"{name}" is {spoken(value)}', "a list is expected", DROP)
    if len(value) < least:
        return Fault(f"too few {name}", f'"{name}" has {len(value)}', f"at least {least} expected", DROP)
    return None


def label_fault(name: str, value: object) -> Fault | None:
    """What is wrong with a label: it is true or false, and 1 or 0 mean that."""
    if isinstance(value, bool | int | float) and value in (0, 1):
        return None
    return Fault("wrong type", f'"{name}" is {_shown(value)}', "true or false (or 1 or 0) is expected", DROP)


def number_fault(name: str, value: object) -> Fault | None:
    """What is wrong with a rank or a score."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return None
    return Fault("wrong type", f'"{name}" is {_shown(value)}', "a finite number is expected", DROP)


def spoken(value: object) -> str:
    """A JSON value's type in JSON's own words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)


def quoted(names: Iterable[object]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _messages_fault(name: str, messages: Sequence[Any], needs: str) -> Fault | None:
    # Fields beside role and content (tool calls, thinking, names) are the template's business.
    for number, message in enumerate(messages, 1):
        where = f'message {number} of "{name}"'
        if not isinstance(message, Mapping):
            expected = 'an object with "role" and "content" is expected'
            return Fault("not a message", f"{where} is {spoken(message)}", expected, DROP)
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            got = (
                f'the "role" of {where} is {_shown(role)}' if "role" in message else f'{where} has no "role"'
            )
            return Fault("no role", got, 'a role such as "user" or "assistant" is expected', DROP)
        if content is None and not message.get("tool_calls"):
            return Fault(
                "no content", f'{where} has no "content"', "a text, or tool calls, are expected", DROP
            )
        if not isinstance(content, str | list | None):
            got = f'the "content" of {where} is {spoken(content)}'
            return Fault("wrong type", got, "a string, or a list of text parts, is expected", DROP)
        for part in content if isinstance(content, list) else []:
            if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
                kind = part.get("type") if isinstance(part, Mapping) else spoken(part)
                got = f"{where} has a part without text ({kind})"
                return Fault("not text", got, "text is all that is read here", DROP)
        for text in _texts(message):
            if (fault := _unicode_fault(name, text)) is not None:
                return fault
    # As with text: from a completion that says nothing there is nothing to learn.
    if not any(value for message in messages for field, value in message.items() if field != "role"):
        return Fault("empty", f'no message of "{name}" says anything', needs, DROP)
    return None


def _unicode_fault(name: str, text: str) -> Fault | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # JSON may escape half of a surrogate pair; no tokeniser and no UTF-8 file can hold it.
        got = f'"{name}" holds the lone surrogate \\u{ord(text[error.start]):04x}'
        return Fault("not Unicode text", got, "text is expected", DROP)
    return None


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.items() if isinstance(value, Mapping) else value:
            yield from _texts(list(inner) if isinstance(inner, tuple) else inner)


def _shown(value: object) -> str:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else spoken(value)
