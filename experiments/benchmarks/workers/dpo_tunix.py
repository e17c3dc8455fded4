"""Iterations of Tunix's `DPOTrainer`, on its own Qwen 3."""

import math
import os

import jax
import numpy as np
import optax
from flax import nnx
from tunix.sft.dpo import dpo_trainer
from tunix.sft.hooks import TrainingHooks

from experiments.benchmarks.protocol import read_task, serve
from experiments.benchmarks.workers.gate import Gate
from experiments.benchmarks.workers.tunix_models import load


class Losses(TrainingHooks):
    """What the trainer reports of each step, one step late."""

    def __init__(self):
        self.losses: list[float] = []

    def on_train_step_end(self, train_ctx, train_step, train_loss):
        self.losses.append(float(train_loss))

    def on_train_start(self, train_ctx): ...
    def on_train_end(self, train_ctx): ...
    def on_train_step_start(self, train_ctx): ...
    def on_eval_step_start(self, train_ctx): ...
    def on_eval_step_end(self, train_ctx, eval_loss): ...


def main() -> None:
    task = read_task()
    shape = task.shape
    model, reference = (load(f"{task.directory}/{name}", shape) for name in ("policy", "reference"))
    trainer = dpo_trainer.DPOTrainer(
        model=model,
        ref_model=reference,
        optimizer=optax.adamw(1e-5, weight_decay=0.0),
        training_config=dpo_trainer.DPOTrainingConfig(
            eval_every_n_steps=10**6, max_steps=task.calls, beta=0.1
        ),
    )
    told = Losses()
    trainer.with_training_hooks(told)

    def batches():
        for number in range(task.calls + 1):
            jax.block_until_ready(jax.tree.leaves(nnx.state((model, trainer.optimizer))))
            gate.wait()
            prompts, chosen, rejected = shape.preferences(number)
            yield dpo_trainer.TrainingInput(
                prompt_ids=prompts, prompt_mask=np.ones_like(prompts),
                chosen_ids=chosen, chosen_mask=np.ones_like(chosen),
                rejected_ids=rejected, rejected_mask=np.ones_like(rejected),
            )  # fmt: skip

    gate = Gate(lambda: trainer.train(batches()))
    gate.start()

    def run():
        gate.step()
        return {"first_loss": told.losses[0]} if told.losses else {}

    run()
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    serve({"step": run}, parameters=parameters)
    os._exit(0)  # the loop's thread still waits at the gate


if __name__ == "__main__":
    main()
