"""What does `import prefjax` cost beside `import jax`? At most 15 % more is promised.

Run with `python -m experiments.benchmarks.import_time`. Fresh processes, alternating, minima and medians.
"""

import statistics
import subprocess
import sys
from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Config:
    rounds: int = 9


def seconds(statement: str) -> float:
    """The time of one import in a fresh process, without the interpreter's own start."""
    program = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def main(config: Config) -> float:
    statements = ("import jax", "import prefjax", "import prefjax; prefjax.losses")
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for statement in statements:
        seconds(statement)  # once for the file cache
    for _ in range(config.rounds):
        for statement in statements:
            times[statement].append(seconds(statement))
    base = times["import jax"]
    for statement, taken in times.items():
        ratio = statistics.median(t / b for t, b in zip(taken, base, strict=True))
        print(
            f"{statement:32s} min {min(taken):.3f} s  median {statistics.median(taken):.3f} s  "
            f"ratio to jax: {min(taken) / min(base):.3f} of minima, {ratio:.3f} median of rounds"
        )
    return min(times["import prefjax"]) / min(base)


if __name__ == "__main__":
    main(tyro.cli(Config))
