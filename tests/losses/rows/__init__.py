"""One row of the contract for every public loss: what its tensors look like, and what it promises of them.

A file here for each file of `prefjax.losses`; `tests/losses/test_contract.py` holds every row to the contract. What a
file publishes that is no loss (a weight, a threshold of a whole step) it lists as STATISTICS: tested by itself.
"""

from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """A function of the room, what each of its tensors looks like, and settings, each of which can be swept."""

    loss: Callable
    # For each tensor what kind of number it holds, then its trailing axes: "logp T" is [*batch, T].
    tensors: tuple[str, ...]
    settings: dict[str, float]
    # The largest |dloss/dtensor|; None where the slope grows with the input.
    slope: float | None
    # The trailing axes of the result.
    out: str = ""
    # Where the gradient is on purpose not that of the value: the test that meets it, "file.py::name".
    gradient_met_by: str = ""
    # Names of settings that may also be an array, one a example.
    each: tuple[str, ...] = ()


PAIR = ("logratio", "logratio")
BETA = {"beta": 0.3}
SMOOTH = {"beta": 0.3, "label_smoothing": 0.1}
ON_TOKENS = ("logp T", "behaviour T", "advantage T")
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.3}
