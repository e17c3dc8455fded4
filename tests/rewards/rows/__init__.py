"""One row of the contract for every public function of `prefjax.rewards`: what goes in, and what comes out.

A file here for each file of the room; `tests/rewards/test_contract.py` holds every row to the contract.
"""

from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """A function, what each of its tensors looks like, and settings, each of which can be swept."""

    function: Callable
    # For each tensor what kind of number it holds, then its trailing axes: "logp T" is [*batch, T].
    tensors: tuple[str, ...]
    settings: dict[str, float]
    # The trailing axes of the result; of a tuple of results, those of each.
    out: str | tuple[str, ...] = ""
    # Names of settings that may also be an array, one an example.
    each: tuple[str, ...] = ()
    # False where it says that there is no gradient.
    gradient: bool = True
    # Whether the value may be nan where masks leave nothing, and infinite where thresholds leave no room.
    absent: bool = False
    # The dtype of the result, for results that are no float32.
    dtype: str = "float32"
    # How the table calls it, where tensors and settings are not its arguments as they are.
    call: Callable | None = None
