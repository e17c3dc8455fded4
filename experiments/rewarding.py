"""Rewards by Python functions: completions go to the host as text, rewards come back to the mesh."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.inputs import Input, Rows
from experiments.settings import Config
from prefjax.align import TrainerState, columns_of, load_reward_functions, reward_metrics, score, total_reward
from prefjax.checks import refuse
from prefjax.train import Metrics


class Scorer:
    """Scores the rows of a rollout, each process those that its own devices hold."""

    def __init__(self, functions: Any, source: Input, config: Config):
        self.functions, self._source, self._config = functions, source, config
        self._measured: dict[int, dict[str, float]] = {}

    @property
    def identity(self) -> list[list[Any]]:
        """The name, weight and file of each function: another file is another run."""
        return [
            [f.name, f.weight, hashlib.sha256(Path(f.file).read_bytes()).hexdigest() if f.file else ""]
            for f in self.functions
        ]

    def score(self, batch: dict, source: Rows, step: int | None) -> dict:
        """The same batch with `reward` [M, B]; nan where no function gave one. `step` is None for held-out rows."""
        rows = {
            name: local_rows(batch["completion"][name]) for name in ("tokens", "prompt_lengths", "lengths")
        }
        index = local_rows(batch["index"])
        flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in rows.items()}
        here = self.rewards(flat, index.reshape(-1), source, step).astype(np.float32).reshape(index.shape)
        sharding = batch["weight"].sharding
        return {
            **batch,
            "reward": jax.make_array_from_process_local_data(sharding, here, batch["weight"].shape),
        }

    def rewards(
        self, rows: Mapping[str, np.ndarray], index: np.ndarray, source: Rows, step: int | None
    ) -> np.ndarray:
        """The weighted sum of all functions for each completion, on the host; nan for rows that only fill a batch."""
        tokenizer = self._source.tokenizer
        real = np.flatnonzero(index >= 0)
        ids = [rows["tokens"][i, rows["prompt_lengths"][i] : rows["lengths"][i]].tolist() for i in real]
        originals = source.originals(index[real].tolist())
        logged: dict[str, list[float]] = {}
        each = np.full((len(self.functions), len(index)), np.nan, np.float32)
        each[:, real] = score(
            self.functions,
            [row["prompt"] for row in originals],
            [tokenizer.decode(completion, skip_special_tokens=True) for completion in ids],
            columns_of(originals),
            completion_ids=ids,
            trainer_state=TrainerState(step or 0, self._config.steps or 0),
            log_metric=lambda name, value: logged.setdefault(name, []).append(float(value)),
            rows=[source.tokens.where(i) for i in index[real].tolist()],
            timeout=self._config.reward_timeout,
        )
        everywhere = each
        if jax.process_count() > 1:
            everywhere = np.concatenate(multihost_utils.process_allgather(each), axis=1)
        if step is not None:
            own = {name: float(np.mean(values)) for name, values in logged.items()}
            self._measured[step + 1] = {**reward_metrics(self.functions, everywhere), **own}
        return total_reward(self.functions, each)

    def beside(self, metrics: Metrics) -> "MetricsWithRewards":
        """Metrics that also say what each function gave."""
        return MetricsWithRewards(metrics, self._measured)


class MetricsWithRewards:
    """`Metrics`, with the numbers of the reward functions in the line of their step."""

    def __init__(self, metrics: Metrics, measured: dict[int, dict[str, float]]):
        self._metrics, self._measured = metrics, measured

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._metrics.write(step, {**self._measured.pop(step, {}), **values})

    def rewind(self, step: int) -> None:
        self._metrics.rewind(step)

    def close(self) -> None:
        self._metrics.close()


def make_scorer(config: Config, source: Input) -> Scorer:
    weights = None
    if config.reward_weights:
        try:
            weights = [float(part) for part in config.reward_weights.split(",")]
        except ValueError:
            refuse(
                "--reward-weights", config.reward_weights, "numbers, by commas", "Write for example 1,0.5."
            )
    functions = load_reward_functions(config.reward_funcs, weights=weights, flag="--reward-funcs")
    return Scorer(functions, source, config)


def local_rows(array: jax.Array) -> np.ndarray:
    """[M, B, ...] → [M, b, ...]: the rows that this process's devices hold, in order."""
    found: dict[int, Any] = {}
    for shard in array.addressable_shards:
        rows = shard.index[1] if len(shard.index) > 1 else slice(0, None)
        found.setdefault(rows.start or 0, shard.data)
    return np.concatenate([np.asarray(found[start]) for start in sorted(found)], axis=1)
