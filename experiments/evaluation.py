"""What came of it: every policy's samples at held-out prompts, under the gold preference and the learned one."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.loading import load_judge
from experiments.selection import choose_best, make_chooser
from experiments.settings import Config
from prefjax.align import rows_of, summed_logps
from prefjax.data import (
    PROMPT_ONLY,
    batches,
    best_response,
    best_utility,
    gold_preference,
    gold_utility,
    load_tokenizer,
    read_jsonl,
    tokenise,
)
from prefjax.evaluate import bootstrap_interval, mean_interval, tournament
from prefjax.policy import load_huggingface, sample
from prefjax.train import make_mesh


class Policies(NamedTuple):
    """Hugging Face directories of what is compared."""

    tokenizer: Path
    sft: Path
    judge: Path
    trained: dict[str, Path]


class Drawn(NamedTuple):
    """K completions of every prompt: token rows [prompts, K, ...], texts, and log π - log π₀ of each."""

    rows: dict[str, np.ndarray]
    texts: list[list[str]]
    logratio: np.ndarray
    stopped: np.ndarray


def evaluate(
    policies: Policies, *, heldout: Path, config: Config, prompts: int, samples: int
) -> dict[str, Any]:
    """The numbers of the report. `config` is that of a sampling run (temperature, longest completion, judge)."""
    tokenizer = load_tokenizer(policies.tokenizer)
    records = read_jsonl(heldout, PROMPT_ONLY)
    # Spread over the file rather than its first lines, which belong to few wishes.
    chosen = np.unique(
        np.linspace(0, len(records.rows) - 1, min(prompts, len(records.rows))).round().astype(int)
    )
    held = tokenise(records._replace(rows=[records.rows[i] for i in chosen]), tokenizer)
    texts = [str(records.rows[i]["prompt"]) for i in chosen]
    source = batches(held, batch_size=len(texts), shuffle=False)
    batch = next(source)["prompt"]
    source.close()

    policy, start = load_huggingface(policies.sft, dtype=config.dtype)
    stop = (tokenizer.eos_token_id,)
    _, _, judge, judge_params = load_judge(replace(config, judge=str(policies.judge)), make_mesh())

    @jax.jit
    def draw(params, key):
        def one(key):
            drawn = sample(
                policy,
                params,
                batch["tokens"],
                batch["lengths"],
                key,
                max_new_tokens=config.max_new_tokens,
                stop_tokens=stop,
            )
            rows = rows_of(drawn)
            logps = [
                summed_logps(policy, p, rows, max_completion=config.max_new_tokens) for p in (params, start)
            ]
            return rows, logps[0] - logps[1], drawn.stopped

        return jax.lax.map(one, jax.random.split(key, samples))

    def collect(rows, logratio, stopped) -> Drawn:
        rows = {name: np.swapaxes(np.asarray(leaf), 0, 1) for name, leaf in rows.items()}
        cut = [
            [tokenizer.decode(t[p:n], skip_special_tokens=True) for t, p, n in zip(*of_prompt, strict=True)]
            for of_prompt in zip(rows["tokens"], rows["prompt_lengths"], rows["lengths"], strict=True)
        ]
        return Drawn(rows, cut, np.asarray(logratio).T, np.asarray(stopped).T)

    drawn: dict[str, Drawn] = {}
    for number, (name, directory) in enumerate({"SFT": policies.sft, **policies.trained}.items()):
        _, params = load_huggingface(directory, dtype=config.dtype)
        drawn[name] = collect(*draw(params, jax.random.fold_in(jax.random.key(config.seed), 1000 + number)))

    # Best-of-n is sampled like any other policy: `samples` independent winners of n.
    choose = make_chooser(config, policy, judge, stop_tokens=stop)
    winners = [
        choose_best(
            choose, start, judge_params, held, batch_size=len(texts), seed=config.seed + 7919 * (k + 1)
        )[0]
        for k in range(samples)
    ]
    drawn["best-of-n"] = from_completions(winners, batch, tokenizer, stop[0], config.max_new_tokens)

    def gold(x, y, z):
        return gold_preference(x, y, z, form=config.gold)

    learned_judge = jax.jit(judge)

    def learned(one: Drawn, other: Drawn) -> np.ndarray:
        """P(y ≻ y') for the k-th completion of one against the k-th of the other, and with the (k+1)-th, …"""
        preferences = []
        for shift in range(min(samples, 4)):
            shifted = {name: np.roll(leaf, shift, axis=1) for name, leaf in other.rows.items()}
            flat = [{n: v.reshape(-1, *v.shape[2:]) for n, v in r.items()} for r in (one.rows, shifted)]
            preferences.append(np.asarray(learned_judge(judge_params, *flat)).reshape(len(texts), samples))
        return np.mean(preferences, axis=0).mean(axis=1)

    table = tournament(gold, texts, {name: d.texts for name, d in drawn.items()})
    responses = [
        best_response(x, own, form=config.gold)[0] for x, own in zip(texts, drawn["SFT"].texts, strict=True)
    ]
    if config.gold == "utility":
        value_is = "the mean gold utility"
        values = {n: utilities(texts, d) for n, d in drawn.items()}
        optimum = np.array([best_utility(x)[0] for x in texts])
    else:
        value_is = "the gold preference over SFT"
        values = {n: table[n, "SFT"] if n != "SFT" else np.full(len(texts), 0.5) for n in drawn}
        optimum = np.array(responses)

    numbers: dict[str, Any] = {}
    for name, d in drawn.items():
        over = table[name, "SFT"] if name != "SFT" else np.full(len(texts), 0.5)
        closed = bootstrap_interval(
            np.stack([values[name] - values["SFT"], optimum - values["SFT"]], axis=1),
            statistic=lambda rows: rows[:, 0].mean() / rows[:, 1].mean(), seed=config.seed,
        )  # fmt: skip
        numbers[name] = {
            "gold_preference_over_sft": mean_interval(over)._asdict(),
            "learned_preference_over_sft": mean_interval(learned(d, drawn["SFT"]))._asdict(),
            "gold_value": mean_interval(values[name])._asdict(),
            "gap_closed": closed._asdict(),
            "kl": mean_interval(d.logratio.mean(axis=1))._asdict(),
            "words": float(np.mean([len(t.split()) for own in d.texts for t in own])),
            "tokens": float(np.mean(d.rows["lengths"] - d.rows["prompt_lengths"])),
            "stopped": float(d.stopped.mean()),
        }
    n = config.group
    bound = math.log(n) - (n - 1) / n
    numbers["best-of-n"]["kl"] = {"mean": bound, "low": bound, "high": bound, "n": 0}
    names = list(drawn)
    return {
        "prompts": len(texts), "samples": samples, "n": n, "gold_form": config.gold, "gold_value_is": value_is,
        "win_rates": {
            row: {column: mean_interval(table[row, column])._asdict() for column in names if column != row}
            for row in names
        },
        "policies": numbers,
        "optimum": {"gold_value": float(optimum.mean()), "gold_preference_over_sft": float(np.mean(responses))},
        "judge": judge_accuracy(drawn["SFT"], texts, gold, learned_judge, judge_params),
        "examples": [
            {"prompt": texts[i], "completions": {name: d.texts[i][0] for name, d in drawn.items()}}
            for i in np.linspace(0, len(texts) - 1, 3).astype(int)
        ],
    }  # fmt: skip


def utilities(prompts: list[str], drawn: Drawn) -> np.ndarray:
    k = len(drawn.texts[0])
    flat = gold_utility([x for x in prompts for _ in range(k)], [t for own in drawn.texts for t in own])
    return np.asarray(flat).reshape(len(prompts), k).mean(axis=1)


def judge_accuracy(sft: Drawn, prompts, gold, learned_judge, judge_params) -> dict[str, float]:
    """How often the judge, and gold itself, side with a gold label on two SFT samples of a held-out prompt."""
    first, second = ({n: v[:, k] for n, v in sft.rows.items()} for k in (0, 1))
    truth = np.asarray(gold(prompts, [t[0] for t in sft.texts], [t[1] for t in sft.texts]))
    said = np.asarray(learned_judge(judge_params, first, second))

    def agreement(p):
        side = np.where(p == 0.5, 0.5, (p > 0.5).astype(float))
        return float(np.mean(side * truth + (1 - side) * (1 - truth)))

    return {"accuracy": agreement(said), "gold_accuracy": agreement(truth)}


def from_completions(winners, prompts, tokenizer, eos: int, longest: int) -> Drawn:
    """Kept completions [K][prompts] of token ids as `Drawn` (without log-ratios, which best-of-n does not have)."""
    k, count, width = len(winners), len(winners[0]), prompts["tokens"].shape[1]
    tokens = np.zeros((count, k, width + longest), np.int32)
    prompt_lengths = np.repeat(prompts["lengths"][:, None], k, axis=1)
    lengths = prompt_lengths.copy()
    for j, of_prompts in enumerate(winners):
        for i, ids in enumerate(of_prompts):
            start = int(prompts["lengths"][i])
            tokens[i, j, :start] = prompts["tokens"][i, :start]
            tokens[i, j, start : start + len(ids)] = ids
            lengths[i, j] = start + len(ids)
    texts = [
        [tokenizer.decode(winners[j][i], skip_special_tokens=True) for j in range(k)] for i in range(count)
    ]
    stopped = np.array(
        [[len(winners[j][i]) > 0 and winners[j][i][-1] == eos for j in range(k)] for i in range(count)]
    )
    rows = {"tokens": tokens, "prompt_lengths": prompt_lengths, "lengths": lengths}
    return Drawn(rows, texts, np.zeros((count, k)), stopped)
