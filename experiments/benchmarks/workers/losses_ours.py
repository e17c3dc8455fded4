"""Losses of prefjax and their gradients, compiled."""

from experiments.benchmarks.peers.timed_ours import OURS
from experiments.benchmarks.workers.timed import in_jax

if __name__ == "__main__":
    in_jax({"prefjax": OURS})
