"""What a paper claims and what came of it here: the table that a paper's experiment ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefjax.evaluate import mean_interval
from prefjax.train import markdown_table, write_report


class Claim(NamedTuple):
    """One claim, put to the test.

    Attributes:
      says: the claim, with the paper's own number where it has one.
      measured: what came out here, with its interval and the number of seeds.
      held: whether the measurement says the same. A claim that did not hold is a result.
    """

    says: str
    measured: str
    held: bool


def over_seeds(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """ "mean [low, high]": a 95 % interval by Student's t over seeds."""
    interval = mean_interval(np.asarray(values, np.float64))
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def conclude(
    workdir: Path | str,
    title: str,
    claims: Sequence[Claim],
    *,
    sections: Mapping[str, str],
    data: Mapping[str, Any],
) -> str:
    """Prints and writes `report.md` and `report.json`: the claims first, then `sections`, heading and text of each."""
    table = markdown_table(
        ["claim", "measured here", "verdict"],
        [[claim.says, claim.measured, "held" if claim.held else "did not hold"] for claim in claims],
    )
    text = "\n\n".join(
        [f"# {title}", table, *(f"## {heading}\n\n{body}" for heading, body in sections.items())]
    )
    write_report(workdir, text, {**data, "claims": [claim._asdict() for claim in claims]})
    print(text)
    return text
