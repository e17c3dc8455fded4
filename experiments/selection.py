"""Best-of-n as a run: n completions of every prompt, of which the judge's favourite is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export import opened_workdir
from experiments.inputs import Input, Rows
from experiments.loading import load, load_judge
from experiments.rewarding import Scorer
from experiments.settings import Config
from prefjax.align import best_of_n, round_robin, rows_of
from prefjax.checks import require
from prefjax.data import TokenRows, batches
from prefjax.policy import sample
from prefjax.train import make_mesh, write_report, write_text


def make_drawer(config: Config, policy, *, stop_tokens: tuple[int, ...]) -> Callable:
    """`params, prompts, lengths, key -> rows` [n, B, ...]: n completions of every prompt."""

    def draw(params, prompts, lengths, key):
        def one(key):
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

        return jax.lax.map(one, jax.random.split(key, config.group))

    return draw


def make_chooser(config: Config, policy, judge: Callable, *, stop_tokens: tuple[int, ...]) -> Callable:
    """Compiles `params, judge_params, prompts, lengths, key, index -> rows, preference`: the favourite of n completions
    of every prompt, and the mean probability with which the judge prefers it to the other n - 1."""

    draw = make_drawer(config, policy, stop_tokens=stop_tokens)

    @jax.jit
    def choose(params, judge_params, prompts, lengths, key, index):
        candidates = draw(params, prompts, lengths, key)
        table = round_robin(judge, judge_params, candidates)
        winner, row = best_of_n(table), jnp.arange(prompts.shape[0])
        over_others = (jnp.sum(table, axis=1) - 0.5) / max(config.group - 1, 1)
        return jax.tree.map(lambda leaf: leaf[winner, row], candidates), over_others[winner, row]

    return choose


def make_scored_chooser(
    config: Config, policy, scorer: Scorer, rows: Rows, *, stop_tokens: tuple[int, ...]
) -> Callable:
    """The same with rewards by functions: the completion with the largest reward, and that reward."""

    draw = jax.jit(make_drawer(config, policy, stop_tokens=stop_tokens))

    def choose(params, _, prompts, lengths, key, index):
        candidates = jax.device_get(draw(params, prompts, lengths, key))
        each = [
            scorer.rewards({name: leaf[i] for name, leaf in candidates.items()}, index, rows, None)
            for i in range(config.group)
        ]
        rewards = np.where(np.isnan(each), -np.inf, each)
        winner, row = rewards.argmax(axis=0), np.arange(len(index))
        best = np.where(np.isfinite(rewards[winner, row]), rewards[winner, row], np.nan)
        return {name: leaf[winner, row] for name, leaf in candidates.items()}, best

    return choose


def choose_best(choose: Callable, params, judge_params, rows: TokenRows, *, batch_size: int, seed: int):
    """The token ids of the kept completion of every prompt in file order, and how good it is (see `make_chooser`)."""
    source = batches(rows, batch_size=min(batch_size, len(rows.lines)), shuffle=False)
    kept: list[np.ndarray] = []
    worth: list[float] = []
    for number in range(source.steps_per_epoch):
        batch = next(source)
        key = jax.random.fold_in(jax.random.key(seed), number)
        prompts = batch["prompt"]
        chosen, how_good = jax.device_get(
            choose(params, judge_params, prompts["tokens"], prompts["lengths"], key, batch["index"])
        )
        for i in np.flatnonzero(batch["weight"]):
            kept.append(chosen["tokens"][i, chosen["prompt_lengths"][i] : chosen["lengths"][i]])
            worth.append(float(how_good[i]))
    source.close()
    return kept, worth


def run_best_of_n(
    config: Config, workdir: Path, source: Input, who: dict, scorer: Scorer | None
) -> tuple[Path, dict]:
    """Writes completions.jsonl (the prompts as they were given, and the kept completions) and a report."""
    mesh = make_mesh()  # one device: what it writes does not depend on how many there are
    policy, params = load(config, config.model, mesh, frozen=True)
    n, stop_tokens = config.group, source.stop_tokens
    if scorer is None:
        _, _, judge, judge_params = load_judge(config, mesh)
        choose = make_chooser(config, policy, judge, stop_tokens=stop_tokens)
        measured, said = (
            "preference_over_others",
            f"the judge prefers them to the other {n - 1} with mean probability",
        )
    else:
        judge_params, choose = (
            (),
            make_scored_chooser(config, policy, scorer, source.rows, stop_tokens=stop_tokens),
        )
        measured, said = "reward", "the mean reward of the kept ones is"
    target = workdir / "completions.jsonl"
    with opened_workdir(workdir, config, who):
        kept, worth = choose_best(
            choose,
            params,
            judge_params,
            source.rows.tokens,
            batch_size=config.batch_size or 64,
            seed=config.seed,
        )
        # A prompt none of whose completions has a reward has no best one.
        judged = [i for i, value in enumerate(worth) if np.isfinite(value)]
        require(
            bool(judged), "--reward-funcs", "no completion has a reward", "a number for some of them",
            "Look at what the functions return.",
        )  # fmt: skip
        mean = float(np.mean([worth[i] for i in judged]))
        left_out = len(worth) - len(judged)
        summary = {
            "algorithm": "best_of_n",
            "n": n,
            "prompts": len(judged),
            "left_out": left_out,
            measured: mean,
        }
        lines = []
        for i, row in zip(judged, source.rows.originals(judged), strict=True):
            text = source.tokenizer.decode(kept[i], skip_special_tokens=True)
            chat = not isinstance(row["prompt"], str)
            completion = [{"role": "assistant", "content": text}] if chat else text
            lines.append({"prompt": row["prompt"], "completion": completion})
        if jax.process_index() == 0:
            write_text(target, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            about = f"; {said} {mean:.3f}" if n > 1 or scorer else ""
            about += f"; {left_out} prompts have no reward and are left out" if left_out else ""
            write_report(
                workdir,
                f"# best of {n}\n\n{len(judged)} prompts from `{config.data}`{about}. "
                "They are in `completions.jsonl`.\n",
                summary,
            )
    return target, summary
