"""How long does one step of DPO take, and in how much memory, beside TRL and Tunix on the same shape?

    python -m experiments.benchmarks.dpo_step [--small] [--peers trl tunix torch] [--python-trl PATH]

A step is the reference's forward pass, the policy's forward and backward, and AdamW, in float32 on the CPU. Everybody
starts from the same weights and reads the same token ids; where a peer says its loss, the first must be ours to 1e-4.
Promised: at least 3 times TRL's tokens/s, 1.4 times Tunix's, and at most half of Tunix's peak memory.
"""

import ast
import statistics
import sys
import tempfile
from dataclasses import dataclass, field

import tyro

from experiments.benchmarks.duel import (
    Peer,
    Worker,
    alternate,
    seconds,
    speedup,
    start_all,
    table,
)
from experiments.benchmarks.protocol import Task
from experiments.benchmarks.shapes import SMALL, Shape

OURS = "prefjax"
NEEDS = {
    OURS: ("jax", "flax", "optax", "safetensors"),
    "trl": ("trl", "torch", "transformers", "datasets"),
    "torch": ("torch", "transformers"),
    "tunix": ("tunix", "flax", "optax"),
}


@dataclass(frozen=True)
class Config:
    rounds: int = 5
    peers: tuple[str, ...] = ("trl", "tunix", "torch")
    python_trl: str = sys.executable  # also for torch
    python_tunix: str = sys.executable
    small: bool = False  # seconds rather than minutes, and no meaning in the numbers
    variants: tuple[
        str, ...
    ] = ()  # more of ours: "remat=block,scan_layers=False", see workers/dpo_prefjax.py
    shape: Shape = field(default_factory=Shape)


def main(config: Config) -> dict[str, float]:
    """Prints the table and the ratios; returns the ratios, from medians over rounds."""
    shape = SMALL if config.small else config.shape
    pythons = {"tunix": config.python_tunix, "trl": config.python_trl, "torch": config.python_trl}
    peers = [Peer(OURS, "dpo_prefjax", sys.executable, NEEDS[OURS])]
    for text in config.variants:
        peers.append(peers[0]._replace(name=f"{OURS} {text}", options=fields(text)))
    peers += [Peer(name, f"dpo_{name}", pythons[name], NEEDS[name]) for name in config.peers]

    print(
        f"{shape.parameters / 1e6:.1f} M parameters, {shape.pairs} pairs x {shape.prompt} + {shape.completion} tokens"
    )
    with tempfile.TemporaryDirectory() as directory:
        task = Task(shape, directory, calls=config.rounds + 3, options={})
        Worker(Peer("models", "models", sys.executable, ()), task).stop()
        workers = start_all(peers, task)
        try:
            alternate(workers, rounds=config.rounds)
        finally:
            for worker in workers:
                worker.stop()
    check(workers, shape)
    print(table(*results(workers, shape)))
    return report(workers)


def fields(text: str) -> dict:
    """`"remat=block,scan_layers=False"` → `{"remat": "block", "scan_layers": False}`."""

    def value(word: str):
        try:
            return ast.literal_eval(word)
        except ValueError:
            return word

    return {name: value(word) for name, _, word in (part.partition("=") for part in text.split(","))}


def check(workers: list[Worker], shape: Shape) -> None:
    """Everybody trained the same model on the same tokens."""
    first = {w.peer.name: (w.about | w.records["step"][-1]).get("first_loss") for w in workers}
    for worker in workers:
        name, loss, count = worker.peer.name, first[worker.peer.name], worker.about["parameters"]
        assert count == shape.parameters, f"{name} has {count} parameters, not {shape.parameters}"
        if loss is not None and "dtype" not in worker.peer.options:
            assert abs(loss - first[OURS]) < 1e-4, f"the first loss of {name} is {loss}, ours {first[OURS]}"
    print(
        "first loss: " + ", ".join(f"{name} {loss:.6f}" for name, loss in first.items() if loss is not None)
    )


def results(workers: list[Worker], shape: Shape) -> tuple[list[str], list[list[str]]]:
    head = ["", "min s", "median s", "tokens/s", "peak MiB", "first step s"]
    head += ["cpu s", "cpu/wall", "compile s", "temp MiB"]
    rows = []
    for worker in workers:
        records = worker.records["step"]
        taken = seconds(records)
        busy = sum(record["cpu_seconds"] for record in records) / sum(taken)
        compiled, temporary = worker.about.get("compile_seconds"), worker.about.get("temporary_bytes")
        rows.append([
            worker.peer.name, f"{min(taken):.3f}", f"{statistics.median(taken):.3f}",
            f"{shape.tokens / statistics.median(taken):.0f}", f"{peak(worker) / 2**20:.0f}",
            f"{worker.ready_seconds:.1f}", f"{least_cpu(worker):.2f}", f"{busy:.2f}",
            "" if compiled is None else f"{compiled:.1f}", "" if temporary is None else f"{temporary / 2**20:.0f}",
        ])  # fmt: skip
    return head, rows


def peak(worker: Worker) -> int:
    return max(record["peak_bytes"] for record in worker.records["step"])


def least_cpu(worker: Worker) -> float:
    """Seconds of all cores together: what other programs on the machine disturb least."""
    return min(record["cpu_seconds"] for record in worker.records["step"])


def report(workers: list[Worker]) -> dict[str, float]:
    """Each of ours over each peer."""
    ratios: dict[str, float] = {}
    for ours in (worker for worker in workers if worker.peer.module == "dpo_prefjax"):
        for other in (worker for worker in workers if worker.peer.module != "dpo_prefjax"):
            title = f"{ours.peer.name} over {other.peer.name}"
            median, best = speedup(ours.records["step"], other.records["step"])
            memory, first = peak(ours) / peak(other), ours.ready_seconds / other.ready_seconds
            work = least_cpu(ours) / least_cpu(other)
            print(
                f"{title}: tokens/s x {median:.2f} by rounds, x {best:.2f} from minima; "
                f"peak memory x {memory:.2f}; first step x {first:.2f}; cpu time x {work:.2f}"
            )
            ratios |= {f"{title}, tokens/s": median, f"{title}, peak memory": memory}
    return ratios


if __name__ == "__main__":
    main(tyro.cli(Config))
