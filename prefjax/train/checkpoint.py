"""Checkpoints: state, data cursor and the identity of the run, written while training goes on."""

import json
import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from prefjax.checks import refuse
from prefjax.train.step import TrainState


class Checkpoints:
    """The checkpoints in one directory, newest last; a save that was cut short is not one of them.

    Orbax writes each into a temporary directory that it renames when whole, in the background, all processes
    together. A checkpoint is a `TrainState`, a `cursor` (JSON: where the data stands, what early stopping
    remembers) and `identity` (JSON: what must be the same for the run to be the same run).
    """

    def __init__(self, directory: Path | str, *, identity: dict, keep: int = 2):
        self.directory = Path(directory).absolute()
        self.identity = json.loads(json.dumps(identity))  # as it will read back
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True),
            item_names=("state", "cursor", "identity"),
        )

    def save(self, state: TrainState, cursor: dict) -> None:
        """Copies the state off the devices and returns; the writing goes on behind. A step is saved once."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                cursor=ocp.args.JsonSave(cursor),
                identity=ocp.args.JsonSave(self.identity),
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def restore(self, abstract: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """The state and cursor of `step` (the newest when not given), placed as `abstract` says.

        Args:
          abstract: `jax.ShapeDtypeStruct` leaves with shardings (`abstract_state`): any mesh will do.

        Raises: InputError when the checkpoint belongs to another run (the differences are listed), or when
        its arrays have other names or shapes.
        """
        step = self.latest() if step is None else step
        if step is None:
            refuse(f"{self.directory}", "no checkpoint", "at least one", "Start the run without resuming.")
        about = self._read(step, identity=ocp.args.JsonRestore(), cursor=ocp.args.JsonRestore())
        differences = _differences(about["identity"], self.identity)
        if differences:
            refuse(
                f"{self.directory}/{step}",
                "the checkpoint is of another run: " + "; ".join(differences),
                "the same model, data and settings as now",
                "Repeat the first command, choose another --workdir, or start over with --fresh.",
            )
        got = self._read(step, state=ocp.args.StandardRestore(abstract._asdict()))
        return TrainState(**got["state"]), about["cursor"]

    def _read(self, step: int, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # of every kind: a damaged file surfaces as whatever its reader raises
            said = " ".join(str(error).split())[:300]
            refuse(
                f"{self.directory}/{step}",
                f"the checkpoint cannot be restored ({type(error).__name__}: {said})",
                "a whole one, with the parameters, shapes and optimiser of this run",
                "Remove that directory to resume from the one before it, or start over with --fresh.",
            )

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def abstract_state(state: PyTree, placed: PyTree) -> PyTree:
    """`state` (arrays or shapes) as shapes that know where they will live, for `Checkpoints.restore`."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, placed)


def _differences(then: dict, now: dict) -> list[str]:
    return [
        f"{name} was {then.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
