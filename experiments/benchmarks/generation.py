"""How many tokens a second are generated, greedily and by sampling, beside transformers and Tunix?

    python -m experiments.benchmarks.generation [--small] [--peers transformers tunix] [--python-tunix PATH]

Everybody has the same weights and the same prompts, in float32 on the CPU. Rows never end early. For greedy
generation the share of tokens that are ours is printed: two nearly equal logits may be ordered either way, and from
there on a row is another.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np
import tyro

from experiments.benchmarks.duel import Peer, Worker, alternate, seconds, speedup, start_all, table
from experiments.benchmarks.protocol import Task
from experiments.benchmarks.shapes import SMALL, Shape

OURS = "prefjax"
NEEDS = {
    OURS: ("jax", "flax", "safetensors"),
    "transformers": ("transformers", "torch"),
    "tunix": ("tunix", "flax"),
}


@dataclass(frozen=True)
class Config:
    rounds: int = 5
    peers: tuple[str, ...] = ("transformers", "tunix")
    python_transformers: str = sys.executable
    python_tunix: str = sys.executable
    small: bool = False  # seconds rather than minutes, and no meaning in the numbers
    shape: Shape = field(default_factory=Shape)


def main(config: Config) -> dict[str, float]:
    """Prints the table and the ratios; returns our speed over each peer's, medians over rounds."""
    shape = SMALL if config.small else config.shape
    pythons = {"transformers": config.python_transformers, "tunix": config.python_tunix}
    peers = [Peer(OURS, "generation_prefjax", sys.executable, NEEDS[OURS])]
    peers += [Peer(name, f"generation_{name}", pythons[name], NEEDS[name]) for name in config.peers]

    print(
        f"{shape.parameters / 1e6:.1f} M parameters, {shape.prompts} prompts of {shape.prompt} tokens, "
        f"{shape.new_tokens} new tokens each"
    )
    with tempfile.TemporaryDirectory() as directory:
        task = Task(shape, directory, calls=config.rounds + 2, options={})
        Worker(Peer("models", "models", sys.executable, ()), task).stop()
        workers = start_all(peers, task)
        try:
            alternate(workers, rounds=config.rounds)
        finally:
            for worker in workers:
                worker.stop()
    print(table(*results(workers, shape)))
    return report(workers)


def results(workers: list[Worker], shape: Shape) -> tuple[list[str], list[list[str]]]:
    head = ["", "min s", "median s", "tokens/s", "cpu s", "peak MiB", "all ready s", "tokens as ours"]
    rows = []
    for worker in workers:
        for case, records in worker.records.items():
            taken, ours = seconds(records), workers[0].records[case]
            cpu = min(record["cpu_seconds"] for record in records)  # disturbed least by other programs
            same = np.mean(np.array(records[-1]["tokens"]) == np.array(ours[-1]["tokens"]))
            peak = max(record["peak_bytes"] for record in records) / 2**20
            rows.append([
                f"{worker.peer.name} {case}", f"{min(taken):.3f}", f"{statistics.median(taken):.3f}",
                f"{shape.generated / statistics.median(taken):.0f}", f"{cpu:.2f}", f"{peak:.0f}",
                f"{worker.ready_seconds:.1f}", f"{same:.3f}" if case == "greedy" else "",
            ])  # fmt: skip
    return head, rows


def report(workers: list[Worker]) -> dict[str, float]:
    ours, *others = workers
    ratios = {}
    for other in others:
        for case, records in other.records.items():
            median, best = speedup(ours.records[case], records)
            name = f"{case}, over {other.peer.name}"
            print(f"{name}: tokens/s x {median:.2f} by rounds, x {best:.2f} from minima")
            ratios[name] = median
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Config))
