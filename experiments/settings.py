"""The flags of `python -m experiments.align`, what they mean, and which of them make a run the run it is."""

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from prefjax.align import PAIRED_LOSSES
from prefjax.checks import require

Algorithm = Literal["sft", "reward", "preference", "dpo", "nash_md", "best_of_n"]


@dataclass(frozen=True)
class Config:
    """Alignment from one command.

    With no --algorithm: the whole way on an embedded task (supervised fine-tuning, preference model, DPO and
    Nash-MD, best-of-n, evaluation under a known gold preference). With --algorithm: exactly that one, on
    --model and --data. The same command resumes a run that was stopped.
    """

    algorithm: Algorithm | None = None
    """sft, reward (Bradley–Terry), preference (two-input model), dpo (any --loss), nash_md, best_of_n."""
    loss: str = "sigmoid"
    """Loss on pairs, by TRL's name: sigmoid, ipo, hinge, robust, apo_zero, sppo_hard."""
    model: str = ""
    """Hugging Face directory to start from."""
    data: str = ""
    """JSON Lines with the columns prompt, completion (sft); prompt, chosen, rejected (dpo, reward, preference); or
    prompt (nash_md, best_of_n)."""
    eval_data: str = ""
    """The same kind of file, held out: measured every --eval-every steps and at the end."""
    reference: str = ""
    """Hugging Face directory of the frozen reference π₀; --model unless given."""
    judge: str = ""
    """Hugging Face directory of a reward or preference model, for nash_md and best_of_n."""
    workdir: str = ""
    """Everything a run writes; runs/<algorithm>-<hash of what defines the run> unless given."""
    steps: int | None = None
    """Optimiser steps; three epochs of --data unless given."""
    batch_size: int | None = None
    """Rows of one optimiser step, over all devices; 8 unless given."""
    micro_batch_size: int | None = None
    """Rows at a time, over all devices; cannot change the result, only the memory. --batch-size unless given."""
    learning_rate: float | None = None
    """Peak rate. Unless given, TRL's: sft 2e-5, reward 1e-4, preference 1e-5, dpo 1e-6, nash_md 5e-7."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the rate does after warm-up, until --steps."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    weight_decay: float = 0.0
    """AdamW's, on matrices only."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 does not clip."""
    beta: float | None = None
    """The price of KL: β of DPO and its relatives, τ of Nash-MD. 0.1 unless given."""
    label_smoothing: float = 0.0
    """ε of sigmoid (then cDPO; TRL ignores it there) and robust."""
    mixture_coef: float = 0.125
    """Nash-MD: the opponent's weight on the reference; 0 self-play, 1 best response to the reference."""
    preference_form: Literal["bilinear", "joint"] = "bilinear"
    """preference: the model reads each completion once, or both in one row (in both orders, twice the cost)."""
    max_new_tokens: int = 64
    """Longest completion to sample."""
    temperature: float = 1.0
    """Of sampling; at other values than 1, Nash-MD is slightly off-policy."""
    num_samples: int = 8
    """best_of_n: n."""
    max_length: int = 1024
    """Longest row (prompt and completion), in tokens."""
    overlong: Literal["truncate", "skip", "error"] | None = None
    """What to do with longer rows: keep the start, leave out and count, or stop. As TRL's trainers do unless given:
    reward leaves them out, the others keep the start."""
    boundary: Literal["error", "joined", "separate"] = "error"
    """Where a token reaches across the end of a prompt: stop; give it to the completion, as TRL does after a warning;
    or tokenise the completion by itself."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop with file and line, or leave out and count."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; parameters and log-probabilities stay float32."""
    eval_every: int = 0
    """Steps between measurements on --eval-data; 0: only at the end."""
    patience: int = 0
    """Stop after that many measurements without a new best loss, and keep the best; 0: never."""
    save_every: int = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Decides initial parameters, order of rows and samples."""
    shuffle: bool = True
    """--no-shuffle keeps file order."""
    mesh: str = ""
    """Devices along each axis, as data=4,fsdp=2,tensor=1; all along data unless given."""
    gold: Literal["utility", "majority"] = "utility"
    """Embedded task: transitive gold preference (a utility) or intransitive (the majority of three critics)."""
    fresh: bool = False
    """Remove what an earlier run left in the workdir and start over."""
    plan: bool = False
    """Do not run: compile the step and print parameters, bytes, FLOPs, collectives and a roofline time."""
    chip: str = "host"
    """--plan: the chip of the roofline: host, v4, v5e, v5p, v6e, a100, h100, h200."""
    quick: bool = False
    """Embedded task at its smallest size: a minute or so, and numbers that mean little."""

    @property
    def price(self) -> float:
        """β, as given or 0.1."""
        return 0.1 if self.beta is None else self.beta


# Where, how long and on how many devices: a run may be resumed with other values of these.
_NOT_IDENTITY = {
    "workdir", "steps", "micro_batch_size", "save_every", "eval_every", "mesh", "fresh", "plan", "chip", "quick",
    "model", "data", "eval_data", "reference", "judge",
}  # fmt: skip
# Settings that only some algorithms read; the others are the same run whatever these are.
_READ_BY = {
    "loss": {"dpo"},
    "label_smoothing": {"dpo"},
    "beta": {"dpo", "nash_md"},
    "mixture_coef": {"nash_md"},
    "max_new_tokens": {"nash_md", "best_of_n"},
    "temperature": {"nash_md", "best_of_n"},
    "num_samples": {"best_of_n"},
    "preference_form": {"preference"},
    "gold": set(),  # of the whole way alone; a stage knows it by its data
}
LEARNING_RATES = {
    "sft": 2e-5,
    "reward": 1e-4,
    "preference": 1e-5,
    "dpo": 1e-6,
    "nash_md": 5e-7,
    "best_of_n": 0.0,
}


def identity(config: Config, **contents: object) -> dict:
    """What defines the run: settings that change its numbers, and digests of the models and files it reads."""
    settings = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in _NOT_IDENTITY
        and (config.algorithm is None or config.algorithm in _READ_BY.get(f.name, {config.algorithm}))
    }
    if "beta" in settings:
        settings["beta"] = config.price
    return {**settings, **contents}


def default_workdir(config: Config, identity: dict) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    return Path("runs") / f"{config.algorithm or 'align'}-{digest[:10]}"


def digest_of_model(directory: str | Path) -> str:
    """sha256 over a model's configuration and weights; "" for no directory."""
    if not directory:
        return ""
    whole = hashlib.sha256()
    for path in sorted([*Path(directory).glob("config.json"), *Path(directory).glob("*.safetensors")]):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def check_settings(config: Config) -> None:
    """One clear error for a flag that cannot be meant."""
    require(
        config.loss in PAIRED_LOSSES, "--loss", repr(config.loss), f"one of {', '.join(PAIRED_LOSSES)}",
        "Names are TRL's.",
    )  # fmt: skip
    require(config.price > 0, "--beta", f"{config.beta}", "a positive price of KL", "TRL's default is 0.1.")
    require(
        0 <= config.mixture_coef <= 1, "--mixture-coef", f"{config.mixture_coef}", "0 to 1",
        "0 is self-play, 1 the best response to the reference.",
    )  # fmt: skip
    require(
        0 <= config.label_smoothing < 0.5, "--label-smoothing", f"{config.label_smoothing}", "0 to 1/2, without 1/2",
        "It is the share of flipped labels.",
    )  # fmt: skip
    require(
        config.temperature > 0,
        "--temperature",
        f"{config.temperature}",
        "a positive number",
        "1 is on-policy.",
    )
    flags = vars(config)
    for name, value in flags.items():
        if isinstance(value, float):
            _require(math.isfinite(value), name, value, "a finite number")
    for name in ("steps", "batch_size", "micro_batch_size", "learning_rate"):
        _require(flags[name] is None or flags[name] > 0, name, flags[name], "a positive number")
    for name in ("max_length", "max_new_tokens", "num_samples", "save_every"):
        _require(flags[name] >= 1, name, flags[name], "1 or more")
    for name in ("warmup_steps", "weight_decay", "clip_norm", "eval_every", "patience"):
        _require(flags[name] >= 0, name, flags[name], "0 or more")
    _require(0 <= config.seed < 2**32, "seed", config.seed, "a whole number from 0 to 2³² - 1")


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    require(
        condition, f"--{name.replace('_', '-')}", f"{value}", expected, "Change it, or leave the flag out."
    )
