"""Best-of-n as a run: n completions of every prompt, of which the judge's favourite is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export import opened_workdir
from experiments.inputs import Input
from experiments.problems import load, load_judge
from experiments.settings import Config
from prefjax.align import best_of_n, round_robin, rows_of
from prefjax.data import TokenRows, batches
from prefjax.policy import sample
from prefjax.train import write_report, write_text


def make_chooser(config: Config, policy, judge, *, stop_tokens: tuple[int, ...]) -> Callable:
    """Compiles `params, judge_params, prompts, lengths, key -> rows, preference`: the favourite of n completions of
    every prompt, and the mean probability with which the judge prefers it to the other n - 1."""

    @jax.jit
    def choose(params, judge_params, prompts, lengths, key):
        def draw(key):
            return rows_of(
                sample(
                    policy,
                    params,
                    prompts,
                    lengths,
                    key,
                    max_new_tokens=config.max_new_tokens,
                    temperature=config.temperature,
                    stop_tokens=stop_tokens,
                )
            )

        candidates = jax.lax.map(draw, jax.random.split(key, config.num_samples))
        table = round_robin(judge, judge_params, candidates)
        winner, row = best_of_n(table), jnp.arange(prompts.shape[0])
        over_others = (jnp.sum(table, axis=1) - 0.5) / max(config.num_samples - 1, 1)
        return jax.tree.map(lambda leaf: leaf[winner, row], candidates), over_others[winner, row]

    return choose


def choose_best(choose: Callable, params, judge_params, rows: TokenRows, *, batch_size: int, seed: int):
    """The token ids of the kept completion of every prompt in file order, and how much the judge prefers it."""
    source = batches(rows, batch_size=min(batch_size, len(rows.lines)), shuffle=False)
    kept: list[np.ndarray] = []
    preferences: list[float] = []
    for number in range(source.steps_per_epoch):
        batch = next(source)
        key = jax.random.fold_in(jax.random.key(seed), number)
        chosen, over_others = jax.device_get(
            choose(params, judge_params, batch["prompt"]["tokens"], batch["prompt"]["lengths"], key)
        )
        for i in np.flatnonzero(batch["weight"]):
            kept.append(chosen["tokens"][i, chosen["prompt_lengths"][i] : chosen["lengths"][i]])
            preferences.append(float(over_others[i]))
    source.close()
    return kept, preferences


def run_best_of_n(config: Config, workdir: Path, source: Input, who: dict) -> tuple[Path, dict]:
    """Writes completions.jsonl (the prompts as they were given, and the kept completions) and a report."""
    policy, params = load(config, config.model)
    judge, judge_params = load_judge(config)
    choose = make_chooser(config, policy, judge, stop_tokens=(source.tokenizer.eos_token_id,))
    kept, preferences = choose_best(
        choose, params, judge_params, source.rows, batch_size=config.batch_size or 64, seed=config.seed
    )
    target, mean = workdir / "completions.jsonl", float(np.mean(preferences))
    summary = {
        "algorithm": "best_of_n",
        "n": config.num_samples,
        "prompts": len(kept),
        "preference_over_others": mean,
    }
    text = {row["line"]: row["prompt"] for row in source.records.rows}
    lines = [
        {"prompt": text[int(line)], "completion": source.tokenizer.decode(ids, skip_special_tokens=True)}
        for line, ids in zip(source.rows.lines, kept, strict=True)
    ]
    others = f"the judge prefers the kept one to the other {config.num_samples - 1} with mean probability {mean:.3f}"
    with opened_workdir(workdir, config, who):
        if jax.process_index() == 0:
            write_text(target, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            write_report(
                workdir,
                f"# best of {config.num_samples}\n\n{len(kept)} prompts from `{config.data}`"
                f"{'; ' + others if config.num_samples > 1 else ''}. They are in `completions.jsonl`.\n",
                summary,
            )
    return target, summary
