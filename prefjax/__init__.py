"""prefjax: a functional RL and alignment toolkit for JAX.

Rooms: `returns`, `bellman`, `games`, `rewards`, `losses` are exact mathematics on arrays and load with this
package; `data`, `policy`, `align`, `evaluate`, `train` need the extras `[train]` and `[text]` and load when
they are first named.
"""

import importlib
from types import ModuleType

from prefjax.types import Weighted as Weighted

__version__ = "0.1.0"

ROOMS = (
    "returns", "bellman", "games", "rewards", "losses", "data", "policy", "align", "evaluate", "train",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    # Lazy, so that importing one loss never pays for a tokeniser.
    if name in ROOMS:
        return importlib.import_module(f"prefjax.{name}")
    raise AttributeError(f"module 'prefjax' has no attribute {name!r}; its rooms are {', '.join(ROOMS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS])
