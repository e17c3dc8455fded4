"""Tunix's sampler on its own Qwen 3. It samples by top-p, which at 1 keeps everything."""

from collections.abc import Callable
from functools import partial

from tunix.generate.sampler import CacheConfig, Sampler

from experiments.benchmarks.protocol import read_task, serve
from experiments.benchmarks.shapes import BOS, EOS, PAD
from experiments.benchmarks.workers.tunix_models import load


class Words:
    """A tokeniser for which text is numbers. The sampler puts BOS in front by itself."""

    def encode(self, text, **kwargs):
        return [int(word) for word in text.split()]

    def decode(self, ids, **kwargs):
        return " ".join(map(str, ids))

    def bos_id(self):
        return BOS

    def eos_id(self):
        return EOS

    def pad_id(self):
        return PAD


def main() -> None:
    task = read_task()
    shape = task.shape
    cache = CacheConfig(
        cache_size=shape.prompt + shape.new_tokens + 8,
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
    )
    sampler = Sampler(load(f"{task.directory}/policy", shape), Words(), cache)
    prompts = [" ".join(map(str, row[1:])) for row in shape.beginnings()]
    drawn = 0

    def run(**how):
        nonlocal drawn
        drawn += 1
        out = sampler(
            prompts, max_generation_steps=shape.new_tokens, max_prompt_length=shape.prompt,
            eos_tokens=[shape.vocab_size + 1], seed=drawn, **how,
        )  # fmt: skip
        return {"tokens": [[int(token) for token in row] for row in out.tokens]}

    cases: dict[str, Callable[..., dict]] = {
        "greedy": run,
        "sample": partial(run, temperature=1.0, top_p=1.0),
        "sample top-k 50": partial(run, temperature=1.0, top_p=1.0, top_k=50),
    }
    for case in cases.values():
        case()
    serve(cases)


if __name__ == "__main__":
    main()
