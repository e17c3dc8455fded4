"""What a paper claims and what came of it here: the table that a paper's experiment ends with."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefjax.evaluate import mean_interval
from prefjax.train import markdown_table, write_report

VERDICTS = {True: "held", False: "did not hold", None: "undecided"}


class Claim(NamedTuple):
    """One claim, put to the test.

    Attributes:
      says: the claim, with the paper's own number where it has one.
      measured: what came out here; over seeds, the difference that the verdict is of, with its interval.
      held: whether the measurement says the same; None where seeds leave it open. A claim that did not hold is a
        result, one that is undecided is not.
    """

    says: str
    measured: str
    held: bool | None


def verdict(differences: Sequence[float] | np.ndarray, above: float = 0.0) -> bool | None:
    """Whether the mean over seeds is above `above`, as far as its 95 % interval can tell.

    Returns: True if the whole interval is above, False if all of it is at or below; None otherwise, and for fewer than
      two seeds.
    """
    if len(differences) < 2:
        return None
    interval = mean_interval(np.asarray(differences, np.float64))
    if interval.low > above:
        return True
    return False if interval.high <= above else None


def every(*verdicts: bool | None) -> bool | None:
    """Of a claim of several parts: one that failed decides, one that is open leaves it open."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def over_seeds(
    values: Sequence[float] | np.ndarray,
    digits: int = 3,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> str:
    """ "mean [low, high]": a 95 % interval by Student's t over seeds, its ends cut to what is possible, `within`."""
    if len(values) < 2:
        return "no interval"
    interval = mean_interval(np.asarray(values, np.float64))
    low, high = max(interval.low, within[0]), min(interval.high, within[1])
    return f"{interval.mean:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def conclude(
    workdir: Path | str,
    title: str,
    claims: Sequence[Claim],
    *,
    setting: str,
    sections: Mapping[str, str],
    data: Mapping[str, Any],
) -> str:
    """Prints and writes `report.md` and `report.json`: the claims first, then `sections`, heading and text of each.

    `setting` stands below the title: how many seeds and steps, and whether --quick.
    """
    table = markdown_table(
        ["claim", "measured here", "verdict"],
        [[claim.says, claim.measured, VERDICTS[claim.held]] for claim in claims],
    )
    text = "\n\n".join(
        [
            f"# {title}",
            f"{setting}.",
            table,
            *(f"## {heading}\n\n{body}" for heading, body in sections.items()),
        ]
    )
    write_report(workdir, text, {**data, "setting": setting, "claims": [claim._asdict() for claim in claims]})
    print(text)
    return text
