"""The main job: from supervised fine-tuning to an aligned policy, with a gold preference to be measured against.

    python -m experiments.align                      the whole way on an embedded task, minutes on two CPU cores
    python -m experiments.align --algorithm dpo --model DIR --data pairs.jsonl      one algorithm on real input

The embedded task ("the menu", prefjax.data) is written out as JSON Lines, a tokeniser and a Hugging Face
directory, and every stage below is the same `run` that a user's own files go through.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

from experiments.evaluation import Policies, evaluate
from experiments.export import Outcome, check_workdir, identity_in, wait_for_all
from experiments.figures import draw_matrix, draw_overview
from experiments.runs import run
from experiments.settings import (
    ROLLOUTS,
    Config,
    as_flags,
    check_read,
    check_settings,
    default_workdir,
    identity,
)
from prefjax.checks import InputError, refuse, require
from prefjax.data import PROMPT_COMPLETION, load_tokenizer, read_jsonl, train_tokenizer, write_world
from prefjax.policy import DecoderConfig, init, save_huggingface
from prefjax.train import (
    NonFinite,
    devices_in,
    markdown_table,
    parse_mesh,
    stand_in,
    start_processes,
    write_json,
    write_report,
)


class Size(NamedTuple):
    """How much of the embedded task is done: at its full size, and at its smallest."""

    demonstrations: int
    pairs: int
    sft_steps: int
    judge_steps: int
    dpo_steps: int
    nash_md_steps: int
    heldout_prompts: int
    samples: int


FULL = Size(4000, 16000, 300, 500, 200, 200, 228, 8)
QUICK = Size(400, 400, 30, 20, 10, 6, 24, 2)

# What is small enough to learn in a minute, and learns: 2 layers of width 64 and completions of a dozen tokens.
DECODER = DecoderConfig(
    vocab_size=288, hidden_size=64, intermediate_size=192, num_layers=2, num_heads=4, num_kv_heads=2,
    max_position_embeddings=256, initializer_range=0.06,
)  # fmt: skip
COMPLETION_TOKENS = 24


def main(config: Config) -> dict:
    """Runs what the flags ask for; returns the numbers of the report."""
    check_settings(config)
    check_read(config)
    if config.plan and config.mesh:
        stand_in(devices_in(parse_mesh(config.mesh)))
    start_processes()
    if config.algorithm is None and not (config.model or config.data or config.plan):
        return whole_way(config)
    if config.algorithm is None:
        refuse(
            "--algorithm", "nothing, beside --model, --data or --plan", "one algorithm for these",
            "Add for example --algorithm dpo.",
        )  # fmt: skip
    if not config.model and not config.data:
        config = on_embedded_task(config)
    outcome = run(config)
    if config.plan:
        return outcome.summary
    if jax.process_index() == 0:
        print((outcome.workdir / "report.md").read_text())
        print(f"Everything is in {outcome.workdir}/; the result is {outcome.policy}")
    return outcome.summary


# ------------------------------------------------------------------ the embedded task, stage by stage


class Stages(NamedTuple):
    """The configuration of each stage; a stage reads what the one before it wrote."""

    sft: Config
    judge: Config
    dpo: Config
    nash_md: Config


def write_task(config: Config, workdir: Path, size: Size) -> None:
    """The world as a user would bring it, and a model to start from."""
    world = write_world(
        workdir / "world", seed=config.seed, num_demonstrations=size.demonstrations, num_pairs=size.pairs,
        form=config.gold,
    )  # fmt: skip
    start = workdir / "start"
    if not (start / "model.safetensors").exists():
        demonstrations = read_jsonl(world.sft, PROMPT_COMPLETION).rows
        texts = [str(row[column]) for row in demonstrations for column in ("prompt", "completion")]
        tokenizer = load_tokenizer(train_tokenizer(workdir / "tokenizer", texts))
        decoder = replace(DECODER, vocab_size=len(tokenizer), eos_token_ids=(tokenizer.eos_token_id,))
        policy, params = init(decoder, jax.random.key(config.seed))
        save_huggingface(start, policy, params, tokenizer=tokenizer)


def prepare(config: Config, workdir: Path, size: Size) -> Stages:
    """Writes the embedded task, once for all processes, and says what each stage does with it."""
    if jax.process_index() == 0:
        write_task(config, workdir, size)
    wait_for_all("embedded task")
    start = workdir / "start"

    def world(name: str) -> str:
        return str(workdir / "world" / f"{name}.jsonl")

    common = replace(config, plan=False, eval_data="", reference="", model=str(workdir / "sft" / "policy"))
    policy_steps = config.steps
    return Stages(
        sft=replace(
            common, algorithm="sft", model=str(start), data=world("sft"), eval_data=world("sft_validation"),
            workdir=str(workdir / "sft"), steps=size.sft_steps, batch_size=64, micro_batch_size=None,
            learning_rate=3e-3, schedule="linear", warmup_steps=min(20, size.sft_steps),
            eval_every=max(size.sft_steps // 24, 1), patience=3,
        ),
        judge=replace(
            common, algorithm="preference", data=world("pairs"), eval_data=world("pairs_validation"),
            workdir=str(workdir / "preference"), steps=size.judge_steps, batch_size=64, micro_batch_size=None,
            learning_rate=1e-3, schedule="linear", warmup_steps=min(20, size.judge_steps),
            eval_every=max(size.judge_steps // 20, 1), patience=4,
        ),
        dpo=replace(
            common, algorithm="dpo", data=world("pairs"), eval_data=world("pairs_validation"),
            workdir=str(workdir / "dpo"), steps=policy_steps or size.dpo_steps, batch_size=config.batch_size or 64,
            learning_rate=config.learning_rate or 1e-4, schedule="linear",
        ),
        nash_md=replace(
            common, algorithm="nash_md", data=world("prompts"), judge=str(workdir / "preference" / "policy"),
            workdir=str(workdir / "nash_md"), steps=policy_steps or size.nash_md_steps,
            batch_size=config.batch_size or 128, learning_rate=config.learning_rate or 1e-3,
            beta=config.beta or 0.05, max_new_tokens=COMPLETION_TOKENS,
        ),
    )  # fmt: skip


def whole_way(config: Config, size: Size | None = None) -> dict:
    """SFT → preference model → DPO and Nash-MD from the same SFT policy, and best-of-n → who wins, under gold."""
    began = time.perf_counter()
    size = size or (QUICK if config.quick else FULL)
    workdir = (
        Path(config.workdir)
        if config.workdir
        else default_workdir(config, identity(config, quick=config.quick))
    )
    who = json.loads(json.dumps(identity(config, quick=config.quick)))
    before = identity_in(workdir)
    require(
        before in (None, who) or config.fresh, f"{workdir}", "a whole-way run with other settings",
        "one with the same", "Name another --workdir, or start over with --fresh.",
    )  # fmt: skip
    check_workdir(workdir, config)
    if jax.process_index() == 0:
        for name in ("world", "start", "tokenizer", *Stages._fields, "preference") if config.fresh else ():
            shutil.rmtree(workdir / name, ignore_errors=True)
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", {"settings": vars(config), "identity": who})

    stages = prepare(config, workdir, size)
    outcomes: dict[str, Outcome] = {}
    for name, stage in stages._asdict().items():
        outcomes[name] = run(stage)

    report = evaluate(
        Policies(
            tokenizer=workdir / "start",
            sft=outcomes["sft"].policy,
            judge=outcomes["judge"].policy,
            trained={"DPO": outcomes["dpo"].policy, "Nash-MD": outcomes["nash_md"].policy},
        ),
        heldout=workdir / "world" / "heldout.jsonl",
        config=replace(stages.nash_md, num_samples=config.num_samples),
        prompts=size.heldout_prompts,
        samples=size.samples,
    )
    report["stages"] = {name: outcome.summary for name, outcome in outcomes.items()}
    report["seconds"] = round(time.perf_counter() - began, 1)
    if jax.process_index() == 0:
        publish(workdir, outcomes, report)
        print((workdir / "report.md").read_text())
        print(f"Everything is in {workdir}/")
    return report


def publish(workdir: Path, outcomes: dict[str, Outcome], report: dict) -> None:
    """The top of the workdir: the report, its figures, all metrics in one file, and the Nash-MD policy."""
    draw_overview(workdir / "figures" / "overview.png", report)
    draw_matrix(workdir / "figures" / "win_rates.png", list(report["policies"]), report["win_rates"])
    with (workdir / "metrics.jsonl").open("w") as file:
        for name, outcome in outcomes.items():
            for line in (outcome.workdir / "metrics.jsonl").read_text().splitlines():
                file.write(json.dumps({"stage": name, **json.loads(line)}) + "\n")
    shutil.copytree(outcomes["nash_md"].policy, workdir / "policy", dirs_exist_ok=True)
    write_report(workdir, describe(report), report)


def describe(report: dict) -> str:
    names = list(report["policies"])

    def show(interval: dict) -> str:
        return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"

    matrix = markdown_table(
        ["preferred, to →", *names],
        [
            [row, *("–" if row == column else show(report["win_rates"][row][column]) for column in names)]
            for row in names
        ],
    )
    policies = markdown_table(
        ["policy", "gold over SFT", "learned over SFT", "gold value", "gap closed", "KL to SFT", "words", "stopped"],
        [
            [
                name, show(p["gold_preference_over_sft"]), show(p["learned_preference_over_sft"]),
                show(p["gold_value"]),
                f"{p['gap_closed']['mean']:.0%} [{p['gap_closed']['low']:.0%}, {p['gap_closed']['high']:.0%}]",
                show(p["kl"]) + (" (bound)" if name == "best-of-n" else ""), f"{p['words']:.1f}", f"{p['stopped']:.0%}",
            ]
            for name, p in report["policies"].items()
        ],
    )  # fmt: skip
    best, judge = report["optimum"], report["judge"]
    return f"""# Alignment on the embedded task

{report["prompts"]} held-out prompts, {report["samples"]} completions of each by every policy, at temperature 1.
Brackets are 95 % intervals with the prompt as the unit. Gold is the preference that labelled the data
({report["gold_form"]}).

## Who is preferred to whom, under gold

{matrix}

## Each policy

{policies}

Gold value is {report["gold_value_is"]}; the exact optimum is {best["gold_value"]:.3f}, and the exact best response to
the SFT samples is preferred to them with probability {best["gold_preference_over_sft"]:.3f}. "Gap closed" is the
share of the way from SFT to the optimum. KL of best-of-n is its bound log n - (n-1)/n, n = {report["n"]}.

The preference model agrees with gold labels on {judge["accuracy"]:.1%} of held-out pairs (the gold preference
itself: {judge["gold_accuracy"]:.1%}).
Where the learned preference of a policy exceeds its gold preference, the policy has found what the judge gets wrong.

![who wins, and at what price](figures/overview.png)
![win rates](figures/win_rates.png)

The whole way took {report["seconds"]:.0f} s. One sample of each policy at three held-out prompts:

{examples(report["examples"])}
"""


def examples(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        [
            f"- {row['prompt']}\n"
            + "\n".join(f"  - {name}: {text!r}" for name, text in row["completions"].items())
            for row in rows
        ]
    )


def on_embedded_task(config: Config) -> Config:
    """`--algorithm NAME` without files: that algorithm alone, after the stages it needs, on the embedded task."""
    size = QUICK if config.quick else FULL
    home = Path("runs") / f"embedded-{config.gold}-{config.seed}{'-quick' if config.quick else ''}"
    stages = prepare(config, home, size)
    reward = replace(stages.judge, algorithm="reward", workdir=str(home / "reward"))
    if config.plan:
        # A plan needs shapes alone, and those of the start are those of every policy after it.
        require(
            config.algorithm not in (*ROLLOUTS, "best_of_n"), "--plan", f"{config.algorithm} without files",
            "--model, --data and --judge", "Name them, or plan another algorithm.",
        )  # fmt: skip
    elif config.algorithm != "sft":
        run(stages.sft)
        if config.algorithm == "ppo" and not config.reward_funcs:
            run(reward)  # one completion a prompt has nobody to be preferred to
        elif config.algorithm in (*ROLLOUTS, "best_of_n") and not config.reward_funcs:
            run(stages.judge)
    judge = "" if config.reward_funcs else stages.nash_md.judge
    online = replace(stages.nash_md, algorithm=config.algorithm, judge=judge, beta=config.beta)
    own = {
        "sft": stages.sft,
        "preference": stages.judge,
        "reward": reward,
        "dpo": stages.dpo,
        "kto": replace(stages.dpo, algorithm="kto"),
        "nash_md": stages.nash_md,
        "online_dpo": online,
        "xpo": online,
        "grpo": replace(online, batch_size=32),
        "rloo": replace(online, batch_size=64),
        "ppo": replace(online, judge=judge and str(home / "reward" / "policy")),
        "rejection": replace(online, batch_size=32),
        "best_of_n": replace(online, steps=1),
    }[config.algorithm or ""]
    if config.plan:
        own = replace(own, model=stages.sft.model, plan=True)
    given = {
        name: getattr(config, name)
        for name in ("steps", "batch_size", "micro_batch_size", "learning_rate")
        if getattr(config, name) is not None
    }
    return replace(own, workdir=config.workdir, **given)


def command_line(arguments: Sequence[str] | None = None) -> None:
    """Errors that a user can mend are one line, not a traceback."""
    try:
        main(tyro.cli(Config, args=arguments, description=__doc__))
    except (InputError, NonFinite) as error:
        print(f"error: {as_flags(str(error))}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 3) from None
    except KeyboardInterrupt:
        print("stopped before the first step; the same command starts again.", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is None:
            raise  # not about a file of the user's
        print(
            f"error: {error.filename}: {error.strerror}. Check the path and its permissions.", file=sys.stderr
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    command_line()
