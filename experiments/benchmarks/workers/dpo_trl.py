"""Iterations of TRL's `DPOTrainer`: its own loop, collator, optimiser and logging."""

import os
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from experiments.benchmarks.protocol import read_task, serve
from experiments.benchmarks.workers.gate import Gate


class Recording(DPOTrainer):
    """Keeps every loss."""

    def compute_loss(self, *args, **kwargs):
        out = super().compute_loss(*args, **kwargs)
        loss = out[0] if isinstance(out, tuple) else out
        self.losses = [*getattr(self, "losses", []), loss.detach()]
        return out


def main() -> None:
    task = read_task()
    shape, directory = task.shape, Path(task.directory)
    model, reference = (
        AutoModelForCausalLM.from_pretrained(directory / name, dtype=torch.float32)
        for name in ("policy", "reference")
    )

    def text(ids) -> str:
        return " ".join(f"w{i}" for i in ids)

    rows = []
    for number in range(task.calls):
        for prompt, chosen, rejected in zip(*shape.preferences(number), strict=True):
            # It appends the end-of-sequence token itself.
            pair = {"chosen": " " + text(chosen[:-1]) + " ", "rejected": " " + text(rejected[:-1]) + " "}
            rows.append({"prompt": text(prompt), **pair})

    with tempfile.TemporaryDirectory() as scratch:
        arguments = DPOConfig(
            output_dir=scratch, max_steps=task.calls, per_device_train_batch_size=shape.pairs,
            learning_rate=1e-5, lr_scheduler_type="constant", beta=0.1, train_sampling_strategy="sequential",
            max_length=shape.prompt + shape.completion, gradient_checkpointing=False, bf16=False, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Recording(
            model=model, ref_model=reference, args=arguments, train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(directory / "policy"),
        )  # fmt: skip
        prepared, (prompts, chosen, _) = trainer.train_dataset[0], shape.preferences(0)
        assert (prepared["prompt_ids"], prepared["chosen_ids"]) == (prompts[0].tolist(), chosen[0].tolist())
        gate = Gate(trainer.train)

        class AtGate(TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                gate.wait()

        trainer.add_callback(AtGate())
        gate.start()

        def run():
            gate.step()
            return {"loss": float(trainer.losses[-1])}

        first = run()["loss"]
        serve({"step": run}, first_loss=first, parameters=sum(p.numel() for p in model.parameters()))
    os._exit(0)  # the loop's thread still waits at the gate


if __name__ == "__main__":
    main()
