"""Reward functions by name: `rewards.py:accuracy,format`, out of a file or an installed package."""

import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from prefjax.align.reward_answers import RewardFunction, innermost, one_line, reward_function, shown
from prefjax.checks import refuse, require

FORMS = "rewards.py, rewards.py:accuracy,format, package.module:accuracy or package.module.accuracy"


def load_reward_functions(
    source: str, *, weights: Sequence[int | float] | None = None, flag: str = "--reward-funcs"
) -> tuple[RewardFunction, ...]:
    """The functions that a text names, in its order.

        rewards.py:accuracy,format      of a file; its directory joins the end of `sys.path`
        rewards.py                      all of the file's own functions that have a parameter `completions` or
                                        `completion_ids` and a name without leading underscore
        package.module:accuracy,format  of a module, also one in the working directory
        package.module.accuracy         the same, as TRL's command line writes it
        a.py:accuracy,b.module.brief    several sources

    A function goes by the name under which it is found. Loading runs the file, as importing it would.

    Args:
      weights: one for each function, in order; 1 unless given.
      flag: what messages call the text.

    Raises: InputError when a file, module or name is not there (what is there is listed), when it fails to load (with
      its line), when two functions have one name, or when there are not as many weights as functions.
    """
    found: list[tuple[str, Any]] = []
    modules: dict[str, ModuleType] = {}
    for place, name in _parts(source, flag):
        if place not in modules:
            modules[place] = _load(place, flag)
        found += (
            [(name, _get(modules[place], name, place, flag))] if name else _all(modules[place], place, flag)
        )
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(
        twice is None, flag, f"two functions called {twice}", "names that differ, since metrics go by them",
        "Rename one.",
    )  # fmt: skip
    require(
        weights is None or len(weights) == len(found), "--reward-weights",
        f"{len(weights or ())} for {len(found)} functions ({', '.join(names)})", "one for each", "Give as many.",
    )  # fmt: skip
    pairs = zip(found, weights or [1.0] * len(found), strict=True)
    return tuple(reward_function(call, name=name, weight=weight) for (name, call), weight in pairs)


def _parts(source: str, flag: str) -> Iterator[tuple[str, str]]:
    """(file or module, name) of each function; no name for all of a file."""
    place = ""
    for part in (each.strip() for each in source.split(",")):
        if part.endswith(".py"):
            place, name = part, ""
        elif ":" in part:
            place, _, name = part.rpartition(":")
        elif "." in part:
            place, _, name = part.rpartition(".")
        else:
            name = part
        good = place and (name.isidentifier() or (not name and place.endswith(".py")))
        require(bool(good), flag, f"{source!r}", f"something like {FORMS}", "Write it like one of these.")
        yield place, name


def _load(place: str, flag: str) -> ModuleType:
    is_file = place.endswith(".py")
    path = Path(place).expanduser().resolve()
    require(
        not is_file or path.is_file(), flag, f"no file {place} (seen from {os.getcwd()})", "a Python file",
        "Correct the path.",
    )  # fmt: skip
    beside = str(path.parent) if is_file else os.getcwd()
    if beside not in sys.path:
        sys.path.append(beside)  # at the end: what lies beside a reward file must not hide installed packages
    try:
        return _run(path) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own else None
        where = f"{shown(str(path))}, line {line}" if is_file and line else f"{flag} {place}"
        refuse(
            where, f"{type(error).__name__}: {one_line(str(error), 300)}", "a file or module that can be imported",
            "Mend it, or install what it imports.",
        )  # fmt: skip


def _run(path: Path) -> ModuleType:
    # Under a name that no package has: a rewards.py is not the module `rewards` of somebody else.
    name = f"reward_file_{path.stem}_{abs(hash(str(path))):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for a function's module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _get(module: ModuleType, name: str, place: str, flag: str) -> Any:
    if not hasattr(module, name):
        functions = [value for value in vars(module).values() if inspect.isfunction(value)]
        there = [f.__name__ for f in functions if f.__module__ == module.__name__ and f.__name__[0] != "_"]
        refuse(
            f"{flag} {place}", f"no {name} in it", f"one of {', '.join(there) or '(it has no functions)'}",
            "Correct the name.",
        )  # fmt: skip
    return getattr(module, name)


def _all(module: ModuleType, place: str, flag: str) -> list[tuple[str, Any]]:
    def scores(name: str, value: Any) -> bool:
        inner = innermost(value)
        own = inspect.isfunction(inner) and inner.__module__ == module.__name__ and not name.startswith("_")
        return own and bool({"completions", "completion_ids"} & inspect.signature(value).parameters.keys())

    found = [(name, value) for name, value in vars(module).items() if scores(name, value)]
    require(
        bool(found), f"{flag} {place}", "no function with a parameter `completions`",
        "`def name(prompts, completions, **columns)`", "Write one, or name the function: file.py:name.",
    )  # fmt: skip
    return found
