"""Losses of rlax and EasyDeL and their gradients, compiled."""

from experiments.benchmarks.peers.timed_jax import EASYDEL, RLAX
from experiments.benchmarks.workers.timed import in_jax

if __name__ == "__main__":
    in_jax({"rlax": RLAX, "EasyDeL": EASYDEL})
