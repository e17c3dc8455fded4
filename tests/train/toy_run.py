"""A small run to be killed: `python -m tests.train.toy_run WORKDIR STEPS [KILL_AT_STEP]` prints a digest of its end."""

import hashlib
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from prefjax.train import (
    Checkpoints,
    Metrics,
    copied,
    fit,
    init_state,
    make_mesh,
    make_step,
    parse_mesh,
    place,
)
from prefjax.types import Weighted


class Rows:
    """Batches of 8 rows made from their number; a batch knows nothing but its cursor."""

    def __init__(self, kill_at=None):
        self.position, self.kill_at = 0, kill_at

    def __next__(self):
        if self.position == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng(self.position)
        self.position += 1
        x = rng.normal(size=(8, 32)).astype(np.float32)
        return {"index": np.arange(8) + 8 * self.position, "x": x}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def objective(params, batch, key):
    noise = jax.random.normal(key, batch["x"].shape) * 0.1
    hidden = jnp.tanh((batch["x"] + noise) @ params["w"])
    return {"loss": Weighted.of(jnp.square(hidden - 0.3).mean(-1))}


def run(
    workdir: Path,
    steps: int,
    rows: Rows,
    mesh_axes: str = "data=1",
    identity: dict | None = None,
    objective=objective,
):
    mesh = make_mesh(**parse_mesh(mesh_axes))
    optimizer = optax.adam(1e-2)
    params = {"w": jax.random.normal(jax.random.key(7), (32, 32)) / 6}
    state = init_state(params, optimizer, jax.random.key(3))
    placed = copied(state, mesh)
    step = make_step(objective, optimizer, placed, mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", identity=identity or {"data": "toy"})
    metrics = Metrics(workdir)
    try:
        return fit(
            jax.device_put(state, placed), step, rows, steps=steps, checkpoints=checkpoints, metrics=metrics,
            prepare=lambda state, batch: place(batch, mesh, 2), placed=placed, save_every=3, title="toy",
        )  # fmt: skip
    finally:
        checkpoints.close()
        metrics.close()


def digest(state) -> str:
    whole = hashlib.sha256()
    for leaf in jax.tree.leaves((state.step, state.params, state.opt_state, jax.random.key_data(state.key))):
        whole.update(np.asarray(leaf).tobytes())
    return whole.hexdigest()


if __name__ == "__main__":
    kill_at = int(sys.argv[3]) if len(sys.argv) > 3 else None
    fitted = run(Path(sys.argv[1]), int(sys.argv[2]), Rows(kill_at))
    print(digest(fitted.state))
