"""The words of an error: what was got, what was expected, what to do."""

from typing import NoReturn


class InputError(ValueError):
    """Something from outside (a file, a flag, a checkpoint, a judge) is not what it has to be."""


def refuse(where: str, got: str, expected: str, todo: str) -> NoReturn:
    """Raises `InputError("where: got; expected. todo")`.

    `where` names the place as the user knows it: `pairs.jsonl, line 17`, `--beta`, `DIR/config.json`.
    """
    raise InputError(f"{where}: {got}; {expected}. {todo}")


def require(condition: bool, where: str, got: str, expected: str, todo: str) -> None:
    """`refuse` unless `condition`, which must be a concrete Python truth value."""
    if not condition:
        refuse(where, got, expected, todo)
