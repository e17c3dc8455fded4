"""`generate` of transformers, with its cache."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from experiments.benchmarks.protocol import read_task, serve


def main() -> None:
    task = read_task()
    shape = task.shape
    model = AutoModelForCausalLM.from_pretrained(Path(task.directory) / "policy", dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # every row is as long as it may be
    prompts = torch.from_numpy(shape.beginnings()).long()

    @torch.no_grad()
    def run(**how):
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=shape.new_tokens, **how
        )
        return {"tokens": out[:, shape.prompt :].tolist()}

    cases: dict[str, Callable[..., dict]] = {
        "greedy": partial(run, do_sample=False),
        "sample": partial(run, do_sample=True, top_k=0, top_p=1.0),
        "sample top-k 50": partial(run, do_sample=True, top_k=50, top_p=1.0),
    }
    for case in cases.values():
        case()
    serve(cases)


if __name__ == "__main__":
    main()
