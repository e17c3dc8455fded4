"""prefjax's sampler: prefill and loop in one program."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.protocol import read_task, serve
from prefjax.policy import load_huggingface, sample


def main() -> None:
    task = read_task()
    shape = task.shape
    policy, params = load_huggingface(Path(task.directory) / "policy")
    params = jax.device_put(params)
    prompts = jnp.asarray(shape.beginnings())
    lengths = jnp.full(shape.prompts, shape.prompt, jnp.int32)
    drawn = 0

    def run(**filters):
        nonlocal drawn
        drawn += 1
        out = sample(
            policy, params, prompts, lengths, jax.random.key(drawn),
            max_new_tokens=shape.new_tokens, stop_tokens=(), **filters,
        )  # fmt: skip
        return {"tokens": np.asarray(out.tokens)[:, shape.prompt :].tolist()}

    cases: dict[str, Callable[..., dict]] = {
        "greedy": partial(run, temperature=0.0),
        "sample": run,
        "sample top-k 50": partial(run, top_k=50),
    }
    for case in cases.values():
        case()
    serve(cases)


if __name__ == "__main__":
    main()
