"""Several sources at once, each with the share that it has of what is drawn: `a.jsonl=0.7,b.parquet=0.3`."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from prefjax.checks import refuse, require
from prefjax.data.prepared import prepare
from prefjax.data.records import Kind, Records
from prefjax.data.tables import Bad

FORM = '"SOURCE=WEIGHT,SOURCE=WEIGHT", or sources without weights, are expected'


class Source(NamedTuple):
    """Where rows come from, as `prepare` takes it, and how often they are drawn beside those of the others."""

    path: str
    weight: float | None  # relative; None where nobody said


def parse_sources(text: str, *, where: str = "--data") -> tuple[Source, ...]:
    """What a flag such as `a.jsonl=0.7,b.parquet=0.3` names; its parts are divided by commas.

    A name with a comma or `=` in it is taken as it stands where it exists as a file.

    Raises: `InputError` for a part without a name, a weight that is not a positive number, or weights for some
      sources and not for others. Whether the sources are there is asked when they are prepared.
    """
    parts = text.split(",")
    sources: list[Source] = []
    while parts:
        # The longest run of parts that is a file; else one part.
        lengths = (n for n in range(len(parts), 1, -1) if _exists(",".join(parts[:n])))
        length = next(lengths, 1)
        sources.append(_source(",".join(parts[:length]), where))
        del parts[:length]
    without = [source.path for source in sources if source.weight is None]
    require(
        len(without) in (0, len(sources)),
        where,
        f"{without[0] if without else ''} has no weight, others have one",
        "weights for all or for none are expected",
        "Write SOURCE=WEIGHT for each.",
    )
    return tuple(sources)


def prepare_all(
    sources: Sequence[Source],
    kind: Kind,
    *,
    bad: Bad = "error",
    cache: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> tuple[Records, ...]:
    """`prepare` for each source, in their order."""
    return tuple(prepare(s.path, kind, bad=bad, cache=cache, progress=progress) for s in sources)


def _exists(part: str) -> bool:
    return os.path.exists(part) or os.path.exists(part.rpartition("=")[0])


def _source(part: str, where: str) -> Source:
    if os.path.exists(part) or "=" not in part:
        require(bool(part), where, "a source without a name", FORM, "Look for a comma too many.")
        return Source(part, None)
    path, _, said = part.rpartition("=")
    try:
        weight = float(said)
    except ValueError:
        refuse(
            where,
            f'the weight "{said}" of "{path}"',
            "a number is expected after =",
            "Mend it, or check the path, if it holds a =.",
        )
    require(bool(path), where, f'a source without a name before "={said}"', FORM, "Name it.")
    require(
        0 < weight < math.inf, where, f'the weight {said} of "{path}"', "a positive number is expected",
        "Raise it, or leave the source out.",
    )  # fmt: skip
    return Source(path, weight)
