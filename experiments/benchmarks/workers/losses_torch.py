"""Losses of TRL, verl, OpenRLHF and torch and their gradients, as they are run there: eagerly."""

from experiments.benchmarks.peers.timed_torch import OPENRLHF, TORCH, TRL, VERL
from experiments.benchmarks.workers.timed import in_torch

if __name__ == "__main__":
    in_torch({"TRL": TRL, "verl": VERL, "OpenRLHF": OPENRLHF, "torch": TORCH})
