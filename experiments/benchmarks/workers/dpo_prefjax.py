"""DPO steps of prefjax, by the functions that the main job calls.

Options are fields of `DecoderConfig`, and `at_once`: how many pairs have their logits at a time, 0 for pieces of the
vocabulary instead. Unless given they are as the main job has them.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.protocol import read_task, serve
from prefjax.align import PAIRED_LOSSES, add_reference, paired_objective, pairs_at_once
from prefjax.policy import abstract, load_huggingface
from prefjax.train import copied, init_state, make_mesh, make_optimizer, make_schedule, make_step, place


def main() -> None:
    task = read_task()
    shape, directory = task.shape, Path(task.directory)
    loaded, params = load_huggingface(directory / "policy")
    _, reference = load_huggingface(directory / "reference")
    fields = {name: value for name, value in task.options.items() if name != "at_once"}
    policy, _ = abstract(replace(loaded.config, **{"remat": "dots", **fields}))
    at_once = pairs_at_once(shape.pairs, max_completion=shape.completion, vocab_size=shape.vocab_size)
    at_once = task.options.get("at_once", at_once) or None

    mesh = make_mesh(data=1)
    schedule = make_schedule(1e-5, steps=task.calls)
    optimizer = make_optimizer(schedule)
    state = init_state(params, optimizer, jax.random.key(0))
    placed = copied(state, mesh)
    state, reference = jax.device_put((state, reference), (placed, placed.params))
    objective = paired_objective(
        policy, PAIRED_LOSSES["sigmoid"], beta=0.1, max_completion=shape.completion, at_once=at_once
    )

    def batch(number: int):
        prompts, chosen, rejected = shape.preferences(number)

        def rows(completions):
            tokens = np.concatenate([prompts, completions], axis=1)
            lengths = np.full(shape.pairs, tokens.shape[1], np.int32)
            return {"tokens": tokens, "prompt_lengths": lengths - shape.completion, "lengths": lengths}

        numbers = {"index": np.arange(shape.pairs), "weight": np.ones(shape.pairs, np.float32)}
        return place({**numbers, "chosen": rows(chosen), "rejected": rows(rejected)}, mesh, 1)

    # Compiled ahead, for what the compiler says about memory.
    start = time.perf_counter()
    adds = add_reference(policy, max_completion=shape.completion)
    refer = jax.jit(adds).lower(reference, batch(0)).compile()
    given = jax.eval_shape(adds, reference, batch(0))
    step = make_step(objective, optimizer, placed, mesh).lower(state, given).compile()
    compile_seconds = time.perf_counter() - start
    sizes = [part.memory_analysis() for part in (refer, step)]
    done = 0

    def run():
        nonlocal state, done
        state, metrics = step(state, refer(reference, batch(done)))
        done += 1
        return {"loss": float(metrics["loss"])}

    first = run()["loss"]
    serve(
        {"step": run},
        first_loss=first,
        at_once=at_once,
        compile_seconds=compile_seconds,
        temporary_bytes=max(size.temp_size_in_bytes for size in sizes if size is not None),
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
    )


if __name__ == "__main__":
    main()
