"""How long does a loss take, forwards and backwards, beside the line that others have for it?

    python -m experiments.benchmarks.losses [--only NAME …] [--small] [--python-peers PATH] [--out docs/loss_speed.md]

65,536 pairs, or 512 sequences of 1,024 tokens, float32 on the CPU; value and gradient in every number. Ours and rlax's
are compiled; torch runs eagerly, as trainers run it. Live processes take turns case by case, and must agree on the
value. Promised: none slower than its peer.
"""

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import tyro

from experiments.benchmarks.duel import Peer, Worker, speedup, start_all, table
from experiments.benchmarks.peers.timed_arrays import Size
from experiments.benchmarks.protocol import Task
from experiments.benchmarks.shapes import SMALL

SMALL_SIZE = Size(pairs=64, sequences=8, tokens=16)
HEAD = ["", "beside", "prefjax ms", "peer ms", "times as fast", "from minima"]


@dataclass(frozen=True)
class Config:
    rounds: int = 7
    only: tuple[str, ...] = ()  # cases whose name has one of these in it
    peers: tuple[str, ...] = ("torch", "jax")
    python_peers: str = sys.executable
    one_core: bool = False  # and CPU time, not wall time: for a machine that others keep busy
    small: bool = False  # no meaning in the numbers
    out: Path | None = None  # a Markdown file; without, the table is only printed


class Match(NamedTuple):
    """A case of ours and the same of a library."""

    name: str
    library: str
    ours: Worker
    theirs: Worker

    def cases(self) -> tuple[tuple[Worker, str], tuple[Worker, str]]:
        return (self.ours, f"prefjax: {self.name}"), (self.theirs, f"{self.library}: {self.name}")


def main(config: Config) -> dict[str, float]:
    """Prints the table; returns how many times as fast ours is, the median over rounds."""
    size = SMALL_SIZE if config.small else Size()
    options = {"size": asdict(size), "only": list(config.only), "one_core": config.one_core}
    workers = [Peer("prefjax", "losses_ours", sys.executable, ("jax",), options)]
    if "torch" in config.peers:
        workers.append(Peer("torch", "losses_torch", config.python_peers, ("torch", "trl"), options))
    if "jax" in config.peers:
        workers.append(Peer("rlax", "losses_jax", config.python_peers, ("rlax",), options))
    ours, *others = started = start_all(workers, Task(SMALL, "", calls=0, options=options))
    try:
        matches = matched(ours, others)
        load = os.getloadavg()[0]
        for number in range(-1, config.rounds):
            for match in matches:
                turn(match, number)
    finally:
        for worker in started:
            worker.stop()
    rows = results(matches)
    print(table(HEAD, rows))
    if config.out is not None:
        config.out.write_text(document(rows, size, config, load))
    return {match.name: ratio(match) for match in matches}


def matched(ours: Worker, others: Sequence[Worker]) -> list[Match]:
    found = []
    for worker in others:
        for case in worker.records:
            library, _, name = case.partition(": ")
            found.append(Match(name, library, ours, worker))
    order = list(ours.records)
    return sorted(found, key=lambda match: order.index(f"prefjax: {match.name}"))


def turn(match: Match, number: int) -> None:
    """One case on both sides, in an order that changes; of round -1 only the values are looked at."""
    values = []
    for worker, case in match.cases() if number % 2 else match.cases()[::-1]:
        record = worker.run(case)
        values.append(record["value"])
        if number >= 0:
            worker.records[case].append(record)
    scale = max(1e-2, *map(abs, values))
    assert abs(values[0] - values[1]) < 1e-3 * scale, f"{match.name}: {match.library} has other values: {values}"


def ratio(match: Match) -> float:
    (ours, case), (theirs, their_case) = match.cases()
    return speedup(ours.records[case], theirs.records[their_case])[0]


def results(matches: Sequence[Match]) -> list[list[str]]:
    rows = []
    for match in matches:
        (ours, case), (theirs, their_case) = match.cases()
        mine, other = ours.records[case], theirs.records[their_case]
        median, best = speedup(mine, other)
        milliseconds = [1e3 * statistics.median(r["seconds"] for r in records) for records in (mine, other)]
        rows.append([
            match.name, match.library, *(f"{ms:.3g}" for ms in milliseconds), f"{median:.2f}", f"{best:.2f}"
        ])  # fmt: skip
    return rows


def document(rows: Sequence[Sequence[str]], size: Size, config: Config, load: float) -> str:
    ratios = [float(row[4]) for row in rows]
    slower = [row[0] for row in rows if float(row[4]) < 1]
    where = f"{os.cpu_count()} CPU cores, load {load:.1f} beside the benchmark"
    if config.one_core:
        where = f"CPU time of one core each, since others kept the machine busy (load {load:.1f})"
    lines = [
        "# Every loss beside its peer's line",
        "",
        "Generated by `python -m experiments.benchmarks.losses --out docs/loss_speed.md`.",
        "",
        f"{size.pairs:,} pairs, or {size.sequences} sequences of {size.tokens:,} tokens ({size.choices} choices where a loss "
        "is given logits), value and gradient, float32. Live processes take turns, case by case; a time is the least of "
        f"50 ms, a row the median of {config.rounds} rounds. {where}. Ours, rlax's and "
        "EasyDeL's are compiled; TRL's are the lines of its trainers, taken out of them as they stand, and run eagerly "
        "like OpenRLHF's, verl's (whose functions also make metrics) and torch's. Both must find the same value.",
        "",
        f"Median: {statistics.median(ratios):.1f} times as fast; least: {min(ratios):.2f}. "
        + (f"Slower than the peer: {', '.join(slower)}." if slower else "None is slower than its peer."),
        "",
        f"| {' | '.join(HEAD)} |",
        "|---|" + "---|" * (len(HEAD) - 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Config))
