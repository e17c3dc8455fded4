"""The flags of `python -m experiments.align`, what they mean, and which of them make a run the run it is."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from prefjax.align import PAIRED_LOSSES, UNPAIRED_LOSSES, LossType, check_loss_settings, clip_range
from prefjax.checks import refuse, require
from prefjax.policy import LORA_TARGETS, LoraConfig

Algorithm = Literal[
    "sft", "reward", "preference", "process", "dpo", "kto", "ranked", "nash_md", "online_dpo", "xpo", "grpo", "rloo",
    "ppo", "rejection", "best_of_n",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Alignment from one command.

    With no --algorithm: the whole way on an embedded task (supervised fine-tuning, preference model, DPO and
    Nash-MD, best-of-n, evaluation under a known gold preference). With --algorithm: exactly that one, on
    --model and --data. The same command resumes a run that was stopped.
    """

    algorithm: Algorithm | None = None
    """sft, reward (Bradley–Terry), preference (two-input model), process (a judge of steps), dpo (pairs, any --loss),
    kto (single completions, any --loss), ranked (lists, Plackett–Luce), and with completions drawn on the way: nash_md,
    online_dpo, xpo, grpo, rloo, ppo, rejection (imitates the best of n); best_of_n only draws."""
    loss: str | None = None
    """By TRL's name. dpo, online_dpo: sigmoid (unless given), or another of prefjax.align.PAIRED_LOSSES: ipo, hinge,
    robust, simpo, orpo, aot, tdpo2, …; kto: kto (unless given), bco, apo_zero_unpaired; grpo: dapo (unless given),
    grpo, bnpo, dr_grpo, cispo, sapo, luspo, vespo, gspo, gmpo."""
    model: str = ""
    """Hugging Face directory to start from."""
    data: str = ""
    """JSON Lines, Parquet, a directory of Parquet files, or tfds:NAME, in TRL's columns; text or messages. Several,
    with their shares: a.jsonl=0.7,b.parquet=0.3. sft: prompt, completion (or text, or messages); dpo, reward,
    preference: prompt, chosen, rejected; kto: prompt, completion, label; ranked: prompt, completions; process: prompt,
    completions, labels; the others: prompt."""
    eval_data: str = ""
    """The same kind of file, held out: measured every --eval-every steps and at the end."""
    reference: str = ""
    """Hugging Face directory of the frozen reference π₀; --model unless given."""
    judge: str = ""
    """Hugging Face directory of a reward or preference model, for algorithms that draw completions."""
    reward_funcs: str = ""
    """Programmed rewards in place of --judge, with TRL's signature: file.py:name, package.module:name, …"""
    reward_weights: str = ""
    """One number for each function, by commas; 1 each unless given."""
    reward_timeout: float = 60.0
    """Seconds that one call of a reward function may take."""
    workdir: str = ""
    """Everything a run writes; runs/<algorithm>-<hash of what defines the run> unless given."""
    steps: int | None = None
    """Optimiser steps; three epochs of --data unless given."""
    batch_size: int | None = None
    """Rows of one optimiser step, over all devices; 8 unless given."""
    micro_batch_size: int | None = None
    """Rows at a time, over all devices; cannot change the result, only the memory. --batch-size unless given."""
    learning_rate: float | None = None
    """Peak rate. Unless given, TRL's: sft 2e-5, reward 1e-4, preference 1e-5, dpo, kto, grpo, rloo 1e-6, ppo 3e-6,
    nash_md, online_dpo, xpo 5e-7, rejection 2e-5, process 1e-5, ranked 1e-6."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the rate does after warm-up, until --steps."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    weight_decay: float = 0.0
    """AdamW's, on matrices only."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 does not clip."""
    beta: float | None = None
    """The price of KL: β of DPO and its relatives, τ of Nash-MD. Unless given, TRL's: 0.1; rloo, ppo 0.05; grpo 0."""
    label_smoothing: float = 0.0
    """ε of sigmoid (then cDPO; TRL ignores it there), robust, exo_pair, aot, cpo, simpo."""
    loss_settings: str = ""
    """dpo: other settings of the loss by their names in its docstring, as gamma=1.4 (simpo) or likelihood=0.5 (rpo)."""
    f_divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    """dpo, for losses of ρ⁺ - ρ⁻ alone: what holds the policy to the reference; TRL's f_divergence_type."""
    f_alpha: float = 0.5
    """α of --f-divergence alpha: 0 is forward_kl, 1 reverse_kl; TRL's f_alpha_divergence_coef."""
    use_weighting: bool = False
    """dpo: pairs count as much as the policy would have written them (WPO)."""
    ld_alpha: float | None = None
    """dpo: what tokens beyond the length of the shorter completion count, 0 to 1 (LD-DPO); 1 unless given."""
    mixture_coef: float = 0.125
    """Nash-MD: the opponent's weight on the reference; 0 self-play, 1 best response to the reference."""
    preference_form: Literal["bilinear", "joint"] = "bilinear"
    """preference: the model reads each completion once, or both in one row (in both orders, twice the cost)."""
    max_new_tokens: int = 64
    """Longest completion to sample."""
    temperature: float = 1.0
    """Of sampling; at other values than 1, Nash-MD is slightly off-policy."""
    num_samples: int | None = None
    """Completions of each prompt: n of best_of_n and rejection, the group of grpo and rloo. 8 unless given; rloo 2."""
    num_iterations: int | None = None
    """grpo, rloo: updates on each batch of completions, 1 unless given; ppo: epochs over it, 4 unless given."""
    num_mini_batches: int = 1
    """ppo: pieces of a batch of completions, an update each."""
    epsilon: float | None = None
    """grpo, rloo, ppo: how far a probability ratio counts; 0.2 unless given, gmpo 0.4 (in nats), gspo 3e-4."""
    epsilon_high: float | None = None
    """grpo, rloo: the same upwards; --epsilon unless given, gspo 4e-4. cispo: the cap itself."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """grpo: what advantages are divided by; none is Dr. GRPO."""
    importance_sampling_level: Literal["token", "sequence"] | None = None
    """grpo: a ratio for each token, or one for the whole completion. Unless given: token, luspo and gspo sequence.
    (TRL's luspo has token unless set, and asks for sequence.)"""
    mask_truncated_completions: bool = False
    """grpo, rloo: completions that ran out of room count for nothing."""
    alpha: float = 1e-5
    """xpo: the price of optimism."""
    vf_coef: float = 0.1
    """ppo: weight of the value loss."""
    epsilon_value: float = 0.2
    """ppo: how far a value may move from what it was at the rollout."""
    gamma: float = 1.0
    """ppo: discount."""
    lam: float = 0.95
    """ppo: λ of advantage estimation."""
    max_length: int = 1024
    """Longest row (prompt and completion), in tokens."""
    overlong: Literal["truncate", "skip", "error"] | None = None
    """What to do with longer rows: keep the start, leave out and count, or stop. As TRL's trainers do unless given:
    reward leaves them out, the others keep the start."""
    boundary: Literal["error", "joined", "separate"] = "error"
    """Where a token reaches across the end of a prompt: stop; give it to the completion, as TRL does after a warning;
    or tokenise the completion by itself."""
    packing: bool = False
    """sft, dpo: several sequences in one row of --max-length, without seeing each other; --batch-size counts rows."""
    assistant_only: bool = False
    """sft on messages: learn what the assistant says, by the marks of the chat template."""
    bad_rows: Literal["error", "skip"] = "error"
    """What to do with rows that cannot be used: stop with file and line, or leave out and count."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; trained parameters and log-probabilities stay float32, frozen ones are held in it."""
    lora_rank: int = 0
    """Width of low-rank adapters; only they are trained then, and the reference is the model without. 0: none."""
    lora_alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    lora_targets: str = "q_proj,v_proj"
    """Linear layers with adapters: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or all-linear."""
    lora_layers: str = ""
    """Blocks with adapters, as 0,1,5 or 4-7; all unless given."""
    lora_export: Literal["both", "merged", "adapter"] = "both"
    """policy/ with the adapters merged, adapter/ with them alone as PEFT keeps them, or both."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the parameters, and export that; 0: none."""
    remat: Literal["none", "dots", "block"] = "dots"
    """What the backward pass makes again: nothing, all but products with weights, or whole blocks (least memory)."""
    scan_layers: bool = True
    """Compile one block and loop over it; --no-scan-layers compiles all of them: slower to start, faster to run."""
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
    report_to: Literal["none", "wandb"] = "none"
    """A tracker beside metrics.jsonl and TensorBoard."""
    run_name: str = ""
    """What the tracker calls the run; the name of the workdir unless given."""
    project: str = "prefjax"
    """The tracker's project."""
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
        """β, as given or by the algorithm."""
        return BETAS.get(self.algorithm or "", 0.1) if self.beta is None else self.beta

    @property
    def which_loss(self) -> str:
        """The loss, as given or by the algorithm."""
        return self.loss or {"kto": "kto", "grpo": "dapo"}.get(self.algorithm or "", "sigmoid")

    @property
    def clip(self) -> tuple[float, float]:
        """How far a probability ratio counts, down and up, as given or by the loss."""
        return clip_range(self.which_loss, self.epsilon, self.epsilon_high)

    @property
    def level(self) -> Literal["token", "sequence"]:
        """What has a ratio of its own, as given or by the loss."""
        return self.importance_sampling_level or (
            "sequence" if self.which_loss in ("luspo", "gspo") else "token"
        )

    @property
    def group(self) -> int:
        """Completions of each prompt."""
        return self.num_samples or (2 if self.algorithm == "rloo" else 8)

    @property
    def iterations(self) -> int:
        """Times that a batch of completions is gone through."""
        return self.num_iterations or (4 if self.algorithm == "ppo" else 1)


LOSSES: dict[str, tuple[str, ...]] = {
    "dpo": tuple(PAIRED_LOSSES),
    # What needs no more of a pair than its two sums.
    "online_dpo": tuple(
        name
        for name, paired in PAIRED_LOSSES.items()
        if paired.known_at_start and not paired.of_tokens and paired.statistics is None
    ),
    "kto": tuple(UNPAIRED_LOSSES),
    "grpo": get_args(LossType),
}
ROLLOUTS = ("nash_md", "online_dpo", "xpo", "grpo", "rloo", "ppo", "rejection")
BETAS = {"grpo": 0.0, "rloo": 0.05, "ppo": 0.05}
# Where, how long and on how many devices: a run may be resumed with other values of these.
_NOT_IDENTITY = {
    "workdir", "steps", "micro_batch_size", "save_every", "eval_every", "mesh", "fresh", "plan", "chip", "quick",
    "model", "data", "eval_data", "reference", "judge", "remat", "scan_layers", "lora_export", "report_to", "run_name",
    "project", "reward_funcs", "reward_timeout",
}  # fmt: skip
# Settings that only some algorithms read; the others are the same run whatever these are.
_DRAWN = {*ROLLOUTS, "best_of_n"}
_CLIPPED = {"grpo", "rloo", "ppo"}
_READ_BY: dict[str, set[str]] = {
    "loss": {"dpo", "kto", "grpo", "online_dpo"},
    "label_smoothing": {"dpo", "online_dpo"},
    "beta": {"dpo", "kto", "ranked", *ROLLOUTS} - {"rejection"},
    "mixture_coef": {"nash_md"},
    "max_new_tokens": _DRAWN,
    "temperature": _DRAWN,
    "reward_weights": _DRAWN,
    "num_samples": {"best_of_n", "rejection", "grpo", "rloo"},
    "num_iterations": _CLIPPED,
    "epsilon": _CLIPPED,
    "epsilon_high": {"grpo", "rloo"},
    "scale_rewards": {"grpo"},
    "importance_sampling_level": {"grpo"},
    "mask_truncated_completions": {"grpo", "rloo"},
    "alpha": {"xpo"},
    **{name: {"dpo"} for name in ("loss_settings", "f_divergence", "f_alpha", "use_weighting", "ld_alpha")},
    "packing": {"sft", "dpo"},
    "assistant_only": {"sft"},
    "preference_form": {"preference"},
    "gold": set(),  # of the whole way alone; a stage knows it by its data
    **{name: {"ppo"} for name in ("num_mini_batches", "vf_coef", "epsilon_value", "gamma", "lam")},
}
# Of grpo's losses, the settings that some do not read.
_NOT_READ_BY_LOSS = {
    "importance_sampling_level": {"gspo", "gmpo", "vespo"},
    "epsilon": {"sapo", "vespo"},
    "epsilon_high": {"sapo", "vespo"},
}
_WITH_ADAPTERS = {"lora_alpha", "lora_targets", "lora_layers"}
LEARNING_RATES = {
    "sft": 2e-5, "reward": 1e-4, "preference": 1e-5, "process": 1e-5, "dpo": 1e-6, "kto": 1e-6, "ranked": 1e-6,
    "nash_md": 5e-7, "online_dpo": 5e-7, "xpo": 5e-7, "grpo": 1e-6, "rloo": 1e-6, "ppo": 3e-6, "rejection": 2e-5,
    "best_of_n": 0.0,
}  # fmt: skip


def identity(config: Config, **contents: object) -> dict:
    """What defines the run: settings that change its numbers, and digests of the models and files it reads."""
    settings = {
        f.name: getattr(config, f.name)
        for f in fields(config)
        if f.name not in _NOT_IDENTITY
        and (config.algorithm is None or config.algorithm in _READ_BY.get(f.name, {config.algorithm}))
        and (config.lora_rank or f.name not in _WITH_ADAPTERS)
    }
    decided = {
        "beta": config.price, "loss": config.which_loss, "num_samples": config.group,
        "num_iterations": config.iterations, "epsilon": config.clip[0], "importance_sampling_level": config.level,
    }  # fmt: skip
    settings.update({name: value for name, value in decided.items() if name in settings})
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
    if config.algorithm in LOSSES:
        losses = LOSSES[config.algorithm]
        require(
            config.which_loss in losses,
            "--loss",
            repr(config.loss),
            f"one of {', '.join(losses)}",
            "Names are TRL's.",
        )
    free = config.algorithm in ("grpo", "rloo", "ppo")
    require(
        config.price > 0 or (free and config.price == 0), "--beta", f"{config.beta}",
        f"a price of KL, {'0 or more' if free else 'more than 0'}", "Leave it out for TRL's.",
    )  # fmt: skip
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
    for name in ("steps", "batch_size", "micro_batch_size", "learning_rate", "num_samples", "num_iterations", "epsilon",
                 "epsilon_high", "epsilon_value", "reward_timeout", "lora_alpha"):  # fmt: skip
        _require(flags[name] is None or flags[name] > 0, name, flags[name], "a positive number")
    for name in ("max_length", "max_new_tokens", "num_mini_batches", "save_every"):
        _require(flags[name] >= 1, name, flags[name], "1 or more")
    for name in (
        "warmup_steps",
        "weight_decay",
        "clip_norm",
        "eval_every",
        "patience",
        "lora_rank",
        "alpha",
        "vf_coef",
    ):
        _require(flags[name] >= 0, name, flags[name], "0 or more")
    for name in ("gamma", "lam"):
        _require(0 <= flags[name] <= 1, name, flags[name], "0 to 1")
    _require(0 <= config.ema_decay < 1, "ema_decay", config.ema_decay, "0 (none) to 1, without 1")
    _require(
        not config.reward_funcs or not config.judge,
        "reward_funcs",
        config.reward_funcs,
        "one source of rewards: this or --judge",
    )
    _require(
        config.algorithm != "rloo" or config.group >= 2,
        "num_samples",
        config.group,
        "2 or more: each is measured by the others",
    )
    _require(
        not config.packing or config.algorithm in (None, *_READ_BY["packing"]),
        "packing",
        config.algorithm,
        "sft or dpo, whose rows can share one",
    )
    _check_pairs(config)
    lora_of(config)
    _require(0 <= config.seed < 2**32, "seed", config.seed, "a whole number from 0 to 2³² - 1")


def _check_pairs(config: Config) -> None:
    """Flags of losses on pairs that do not go together."""
    settings_of(config)
    _require(
        config.ld_alpha is None or 0 <= config.ld_alpha <= 1,
        "ld_alpha",
        config.ld_alpha,
        "0 to 1, the weight of a token",
    )
    other = config.f_divergence != "reverse_kl"
    _require(
        config.f_alpha == 0.5 or config.f_divergence == "alpha",
        "f_alpha",
        config.f_alpha,
        "--f-divergence alpha",
    )
    if config.algorithm != "dpo":
        return
    paired = PAIRED_LOSSES[config.which_loss]
    check_loss_settings(paired, settings_of(config))
    _require(
        config.which_loss != "exo_pair" or config.label_smoothing > 0, "label_smoothing", config.label_smoothing,
        "more than 0 for exo_pair, whose loss is infinite there; 1e-3, say",
    )  # fmt: skip
    differences = [name for name, one in PAIRED_LOSSES.items() if one.of_difference]
    _require(
        not other or paired.of_difference, "f_divergence", f"{config.f_divergence} with {config.which_loss}",
        f"a loss of ρ⁺ - ρ⁻ alone: {', '.join(differences)}",
    )  # fmt: skip
    # A packed row knows the sums over its completions, and no more.
    more = (
        paired.of_tokens
        or paired.columns
        or paired.statistics
        or config.use_weighting
        or config.ld_alpha is not None
    )
    _require(
        not (config.packing and more), "packing", f"with {config.which_loss} and its flags",
        "a loss of the sums over completions alone",
    )  # fmt: skip


def settings_of(config: Config) -> dict[str, float]:
    """--loss-settings as numbers by name."""
    found: dict[str, float] = {}
    for part in filter(None, config.loss_settings.replace(" ", "").split(",")):
        name, equals, number = part.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        _require(
            bool(name and equals) and math.isfinite(found.get(name, 0.0)), "loss_settings", config.loss_settings,
            "names and finite numbers, as gamma=1.4,likelihood=0.5",
        )  # fmt: skip
    return found


def lora_of(config: Config) -> LoraConfig | None:
    """The adapters that the flags ask for."""
    if not config.lora_rank:
        return None
    targets = tuple(config.lora_targets.replace(" ", "").split(","))
    targets = LORA_TARGETS if targets == ("all-linear",) else targets
    unknown = sorted(set(targets) - set(LORA_TARGETS))
    _require(
        not unknown, "lora_targets", config.lora_targets, f"all-linear, or some of {', '.join(LORA_TARGETS)}"
    )
    layers: set[int] = set()
    for part in filter(None, config.lora_layers.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        good = first.isdigit() and (not last or (last.isdigit() and int(first) <= int(last)))
        _require(good, "lora_layers", config.lora_layers, "blocks from 0 on, as 0,1,5 or 4-7")
        layers |= set(range(int(first), int(last or first) + 1))
    return LoraConfig(config.lora_rank, config.lora_alpha, targets, tuple(sorted(layers)))


def check_read(config: Config) -> None:
    """Refuses a flag that was given and that the algorithm does not read: nothing asked for is ignored in silence."""
    if config.algorithm is None:
        return
    readers: dict[str, set] = {
        **_READ_BY,
        "judge": _DRAWN,
        "reward_funcs": _DRAWN - {"nash_md"},
        "gold": {config.algorithm},
    }
    for field in fields(config):
        by = readers.get(field.name, {config.algorithm})
        if config.algorithm not in by and getattr(config, field.name) != field.default:
            refuse(
                _flag(field.name), f"{getattr(config, field.name)}, which {config.algorithm} does not read",
                f"it beside {', '.join(sorted(by))}", "Leave it out.",
            )  # fmt: skip
        if (
            config.which_loss in _NOT_READ_BY_LOSS.get(field.name, ())
            and getattr(config, field.name) is not None
        ):
            refuse(
                _flag(field.name), f"{getattr(config, field.name)}, which --loss {config.which_loss} does not read",
                "it beside a loss that does", "Leave it out.",
            )  # fmt: skip
        if (
            field.name in _WITH_ADAPTERS
            and not config.lora_rank
            and getattr(config, field.name) != field.default
        ):
            refuse(_flag(field.name), "it, without --lora-rank", "adapters to shape", "Add --lora-rank 16.")


def as_flags(message: str) -> str:
    """The library's advice names its arguments; here they are flags."""
    flags = {"bad": "bad-rows", "overlong": "overlong", "boundary": "boundary"}
    message = re.sub(r'\b(bad|overlong|boundary)="(\w+)"', lambda m: f"--{flags[m[1]]} {m[2]}", message)
    return re.sub(r"(?<!-)\bmax_length\b", "--max-length", message)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    require(
        condition, f"--{name.replace('_', '-')}", f"{value}", expected, "Change it, or leave the flag out."
    )
