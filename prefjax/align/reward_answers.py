"""What a programmed reward answered: read as numbers, or refused in the words of its own file."""

import functools
import inspect
import math
import numbers
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from prefjax.align.time_limit import Late
from prefjax.checks import refuse, require

LARGEST = float(np.finfo(np.float32).max)
NO_LISTS = (str, bytes, Mapping, set, frozenset)


class RewardFunction(NamedTuple):
    """Somebody's function, the name that its metrics go by, its weight in the sum, and where it is written."""

    call: Callable[..., Any]
    name: str
    weight: int | float = 1.0
    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """`rewards.py, line 12, accuracy`."""
        return f"{shown(self.file)}, line {self.line}, {self.name}" if self.file else self.name


def reward_function(call: Any, *, name: str = "", weight: int | float = 1.0) -> RewardFunction:
    """A callable as a `RewardFunction`: a function, coroutine function, `functools.partial` or object with `__call__`.

    It goes by its own name unless given another. Raises InputError for a class, or for what cannot be called.
    """
    inner = innermost(call)
    name = name or getattr(inner, "__name__", type(inner).__name__)
    require(
        callable(call) and not inspect.isclass(call), f"reward function {name}",
        "a class" if inspect.isclass(call) else f"of type {type(call).__name__}",
        "a function, or an object that can be called", "Name a function.",
    )  # fmt: skip
    require(
        math.isfinite(weight), f"reward function {name}", f"weight {weight}", "a finite number", "Change it."
    )
    inner = inspect.unwrap(inner)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    place = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
    return RewardFunction(call, name, weight, *place)


def listed(answer: Any) -> Any:
    """The answer as a list, if it is iterable at all; a generator does its work here."""
    if hasattr(answer, "ndim"):  # of NumPy, JAX, torch: all at once, not element by element from a device
        array = np.asarray(answer)
        if array.ndim != 1:
            return array
        # bfloat16 says that its kind is V, void.
        return array.astype(np.float64).tolist() if array.dtype.kind in "biufV" else array.tolist()
    return list(answer) if isinstance(answer, Iterable) and not isinstance(answer, NO_LISTS) else answer


def checked(function: RewardFunction, answer: Any, labels: Sequence[str]) -> list[float]:
    """B numbers, nan for None. Raises InputError that names the function and the rows."""
    expected = f"a list of {len(labels)} numbers (or None), one for each completion"
    if not isinstance(answer, list):
        what, how = f"{type(answer).__name__} {short(answer)}", "Return a list."
        if isinstance(answer, np.ndarray):
            what = f"an array of shape {answer.shape}"
        if inspect.isawaitable(answer):
            what, how = "a coroutine", "Declare it with `async def`."
        refuse(function.where, f"it returned {what} for {named(labels)}", expected, how)
    require(
        len(answer) == len(labels), function.where, f"it returned {len(answer)} rewards for {named(labels)}",
        expected, "Return one for every completion, in order; None for one that it cannot judge.",
    )  # fmt: skip
    rewards = []
    for label, entry in zip(labels, answer, strict=True):
        number = _number(entry)
        if number is None:
            what = f"its reward for row {label} is {type(entry).__name__} {short(entry)}"
            refuse(function.where, what, expected, "Return a number.")
        if abs(number) > LARGEST:
            refuse(
                function.where, f"its reward for row {label} is {short(entry)}", "a finite number (in float32)",
                "Clip it, or return None for a completion that it cannot judge.",
            )  # fmt: skip
        rewards.append(number)
    return rewards


def blame(
    function: RewardFunction, error: BaseException, labels: Sequence[str], timeout: int | float
) -> NoReturn:
    """Raises InputError for an exception out of the function, with the place in its own file where it came from."""
    late = isinstance(error, Late)
    stack = error.stack if isinstance(error, Late) else traceback.extract_tb(error.__traceback__)
    own = [frame for frame in stack if function.file and frame.filename == function.file]
    where, line = function.where, ""
    if own:
        where = f"{shown(function.file)}, line {own[-1].lineno}, {function.name}"
        line = f" (at `{own[-1].line}`)" if own[-1].line else ""
    said = (
        f"no answer within {timeout:g} s" if late else f"{type(error).__name__}: {one_line(str(error), 300)}"
    )
    todo = "Mend the function: it has to cope with every completion, also an empty one."
    if late:
        todo = "Make it faster, or raise the limit (--reward-timeout; 0 is none)."
    elif "main thread" in str(error):
        todo = "It uses SIGALRM: score from the main thread, or turn off its own time limits."
    refuse(where, f"{said}{line}, for {named(labels)}", f"a list of {len(labels)} rewards is expected", todo)


def named(labels: Sequence[str]) -> str:
    """`rows 3, 5, 9`: each once, the first sixteen."""
    distinct = list(dict.fromkeys(labels))
    more = f", … ({len(distinct)} in all)" if len(distinct) > 16 else ""
    return f"row{'s' if len(distinct) != 1 else ''} {', '.join(distinct[:16])}{more}"


def one_line(text: str, length: int) -> str:
    """On one line, not too long."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length]}…"


def short(value: Any) -> str:
    """A value as it would be written, if that is short."""
    return one_line(repr(value), 80)


def shown(path: str) -> str:
    """A path as its user would write it: from the working directory, where it lies below."""
    near = os.path.relpath(path) if path else ""
    return path if near.startswith("..") else near


def innermost(call: Any) -> Any:
    """What a `functools.partial` calls in the end."""
    while isinstance(call, functools.partial):
        call = call.func
    return call


def is_async(call: Any) -> bool:
    """Whether calling it gives a coroutine: a function, or an object whose `__call__` is one."""
    call = innermost(call)
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _number(entry: Any) -> float | None:
    """None where it is no number."""
    if entry is None:
        return math.nan
    if getattr(entry, "ndim", None) == 0 and not isinstance(entry, np.generic):
        entry = np.asarray(entry)[()]  # of JAX or torch
    if isinstance(entry, numbers.Real | np.bool_) or getattr(entry, "dtype", None) == "bfloat16":
        try:
            return float(entry)
        except OverflowError:
            return math.inf
    return None
