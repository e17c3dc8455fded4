"""One file of an installed library, loaded by itself: what it imports and nobody installed is a name and no more.

Training libraries import their launchers, servers and GPU kernels on the way to a line of arithmetic. Here a file is
run as it was published, with empty packages around it and stand-ins for what is not asked for; a stand-in
that was needed after all shows as an exception, never as a number.
"""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What the libraries import on the way, and CPUs or this table do not need. Where one is installed, it is used.
UNNEEDED = frozenset({
    "datasets", "deepspeed", "eformer", "ejkernel", "flash_attn", "grain", "metrax", "omegaconf", "pylatexenc", "qwix",
    "ray", "sentencepiece", "tensordict", "torch_npu", "wandb",
})  # fmt: skip


class _Names(type):
    """Classes of which any attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __getitem__(cls, key: object) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())  # __getitem__ alone would make an endless sequence

    def __or__(cls, other: object) -> Any:
        return cls

    __ror__ = __or__


def stand_in(name: str) -> Any:
    def make(cls: type, *args: Any, **settings: Any) -> Any:
        # As a decorator it leaves what it decorates.
        return args[0] if len(args) == 1 and callable(args[0]) and not settings else object.__new__(cls)

    def call(self: Any, *args: Any, **settings: Any) -> Any:
        return make(type(self), *args, **settings)

    return _Names(name, (), {"__new__": make, "__init__": lambda self, *a, **k: None, "__call__": call})


class _Absent(types.ModuleType):
    real: frozenset[str] = frozenset()  # modules in it that are to be imported, and not made up

    def __getattr__(self, name: str) -> Any:
        if (name.startswith("__") and name != "__version__") or f"{self.__name__}.{name}" in self.real:
            raise AttributeError(name)
        value = "0" if name == "__version__" else stand_in(name)
        setattr(self, name, value)
        return value


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for modules of `library` that are not in `real`; asked last, for what is not needed nor installed."""

    def __init__(self, library: str, real: frozenset[str], last: bool):
        self.library, self.real, self.last = library, real, last

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if self.last and top not in UNNEEDED:
            return None
        if not self.last and (top != self.library or name in self.real or _around(name, self.real)):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def _around(name: str, real: frozenset[str]) -> bool:
    return any(other.startswith(name + ".") for other in real)


@contextlib.contextmanager
def _surroundings(library: str, real: frozenset[str]) -> Iterator[None]:
    """Empty packages instead of those around the files asked for; sys.modules is left as it was."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{library} is not installed", name=library)
    (folder, *_) = spec.submodule_search_locations
    before = dict(sys.modules)
    finders = [_Finder(library, real, last=False), _Finder(library, real, last=True)]
    try:
        for name in sorted(_parents(real)):
            package = _Absent(name)
            package.__path__ = ["/".join([folder, *name.split(".")[1:]])]
            package.real = real
            sys.modules[name] = package
            around, _, own = name.rpartition(".")
            if around:
                setattr(sys.modules[around], own, package)
        sys.meta_path[:] = [finders[0], *sys.meta_path, finders[1]]
        yield
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in finders]
        for name in [
            n for n, m in sys.modules.items() if isinstance(m, _Absent) or n.startswith(f"{library}.")
        ]:
            if name not in before:
                del sys.modules[name]
        for name in _parents(real):
            sys.modules.pop(name, None)


def _parents(real: frozenset[str]) -> set[str]:
    return {name.rsplit(".", n)[0] for name in real for n in range(1, name.count(".") + 1)}


_LOADED: dict[tuple[str, tuple[str, ...]], types.ModuleType] = {}


def alone(module: str, *also: str) -> types.ModuleType:
    """The module, run by itself; of its own library only the modules `also` are real."""
    if (module, also) not in _LOADED:
        with _surroundings(module.partition(".")[0], frozenset((module, *also))):
            _LOADED[module, also] = importlib.import_module(module)
    return _LOADED[module, also]


@contextlib.contextmanager
def given(module: types.ModuleType, **names: Any) -> Iterator[None]:
    """Inside, the module's global names are these: a network's forward pass becomes numbers that are fixed."""
    before = {name: vars(module)[name] for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


def source(module: str) -> str:
    """The text of a library's file, which is not run."""
    library, *names = module.split(".")
    spec = importlib.util.find_spec(library)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{library} is not installed", name=library)
    return Path(spec.submodule_search_locations[0], *names).with_suffix(".py").read_text()


@functools.cache
def lines(text: str, first: str, last: str) -> types.CodeType:
    """From the line that starts with `first` to the next one that starts with `last`, to be run as they stand.

    For what a library has in the middle of a long method.
    """
    all_lines = text.splitlines()
    begin = next(i for i, line in enumerate(all_lines) if line.strip().startswith(first))
    end = next(i for i, line in enumerate(all_lines) if i >= begin and line.strip().startswith(last))
    return compile(textwrap.dedent("\n".join(all_lines[begin : end + 1])), f"{first} … {last}", "exec")


def version(distribution: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
