"""Trains tiny models with TRL and writes down the loss of every step, for our own trainer to reproduce.

    HF_HUB_OFFLINE=1 python tests/goldens/trl/make.py [DIRECTORY]     (extra [oracle], CPU, two minutes)

Writes next to itself, or into DIRECTORY; the same versions on the same kind of CPU write the same bytes.

    policy/        LlamaForCausalLM, random weights, with its tokeniser
    reward/        LlamaForSequenceClassification (num_labels 1), other random weights, same tokeniser
    pairs.jsonl    320 rows of prompt, chosen, rejected
    sft.jsonl      320 rows of prompt, completion
    curves.json    versions, settings, curves, and the ids that TRL made of the text

**The models.** Hidden 32, 2 layers, 4 query and 2 key-value heads of 8, MLP 64, untied, float32. Matrices
are normal with standard deviation 0.2; the scales of the norms are uniform on [0.5, 1.5], so that a loader
that forgets one is found out. The tokeniser is a byte-level BPE of 384 entries trained on the text made
here; pad is `<pad>` (0), EOS is `</s>` (1), there is no BOS, and nothing is added to a text by itself.

**The text.** Every prompt ends in a letter or in punctuation and every completion begins with a space, so
tokens never merge across the boundary; there are words outside ASCII; no completion carries an EOS of its
own. Rows that break these habits are under `edges` in curves.json, tokenised but never trained on.

**How every curve was produced.** A fresh trainer per curve (`DPOTrainer`, `SFTTrainer`, `RewardTrainer`),
given the directory as a string, so that TRL loads the model in float32 and, for DPO, a second copy of it as
the frozen reference. 30 optimiser steps; 8 rows a microbatch; rows in file order, that is
`train_sampling_strategy="sequential"`, beginning again with the first row at the end of the file; AdamW,
learning rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, no weight decay; gradients clipped to a global norm
of 1; constant learning rate; max_length 1024; no dropout, no gradient checkpointing, no mixed precision,
one thread. What a curve changes is below, and everything is in its `settings`:

    dpo/sigmoid, hinge, apo_zero, ipo    beta 0.1
    dpo/robust                beta 0.1, label smoothing 0.1
    dpo/sppo_hard             beta 0.5, learning rate 1e-4: squares of summed log-ratios, which rounding
                              disturbs most
    dpo/sigmoid_linear        5 steps of warm-up, the first at rate 0, then a linear fall to 0 after step 30
    dpo/sigmoid_accumulate    2 microbatches of 8 a step: 480 rows, so the file begins again after step 20
    dpo/sigmoid_truncated     max_length 24: about half of the completions lose their end, and rows whose
                              prompt alone fills it are dropped
    sft/nll                   loss on the completion only, which is TRL's default for such rows
    sft/accumulate            2 microbatches of 8 a step, one division by the tokens of both
    sft/truncated             max_length 24
    reward/bradley_terry      -log sigmoid(score of chosen - score of rejected), read at the last token, EOS
    reward/filtered           max_length 52: TRL drops, and does not truncate, a pair with a longer side

**What is recorded, per optimiser step.** `loss` is the number that `compute_loss` returned, before the
update; with accumulation the mean of the microbatches (DPO) or their sum (SFT, where each is already divided
by the tokens of the whole step). It is compared here with what the trainer logs. `grad_norm` is the norm
before clipping. `learning_rate` is the rate that the update used. The other metrics are those that TRL logs:
means over the pairs, then over the microbatches; `rewards/*` are beta times the log-ratio, `logps/*` are
sums over the completion. Numbers carry nine digits, which is all that a float32 holds. `first_batch` has the
padded ids and masks of the first microbatch; chosen rows come first, then rejected ones.

**How much of it is rounding.** `sensitivity` is the largest change of the loss over the 30 steps when every
initial weight is multiplied by 1 + 1e-7 or 1 - 1e-7 at random, i.e. moved by about one unit in its last
place. A faithful implementation should land within a small multiple of it.
"""

import copy
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import datasets
import tokenizers
import torch
import transformers
import trl
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

STEPS = 30
COMMON = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "train_sampling_strategy": "sequential",
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 1024,
    "gradient_checkpointing": False,
    "bf16": False,
    "fp16": False,
    "use_cpu": True,
    "seed": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
PLUMBING = {"use_cpu", "logging_steps", "save_strategy", "report_to", "disable_tqdm", "seed"}

CURVES = {
    "dpo/sigmoid": {"loss_type": ["sigmoid"], "beta": 0.1},
    "dpo/ipo": {"loss_type": ["ipo"], "beta": 0.1},
    "dpo/hinge": {"loss_type": ["hinge"], "beta": 0.1},
    "dpo/robust": {"loss_type": ["robust"], "beta": 0.1, "label_smoothing": 0.1},
    "dpo/apo_zero": {"loss_type": ["apo_zero"], "beta": 0.1},
    "dpo/sppo_hard": {"loss_type": ["sppo_hard"], "beta": 0.5, "learning_rate": 1e-4},
    "dpo/sigmoid_linear": {
        "loss_type": ["sigmoid"],
        "beta": 0.1,
        "lr_scheduler_type": "linear",
        "warmup_steps": 5,
    },
    "dpo/sigmoid_accumulate": {"loss_type": ["sigmoid"], "beta": 0.1, "gradient_accumulation_steps": 2},
    "dpo/sigmoid_truncated": {"loss_type": ["sigmoid"], "beta": 0.1, "max_length": 24},
    "sft/nll": {},
    "sft/accumulate": {"gradient_accumulation_steps": 2},
    "sft/truncated": {"max_length": 24},
    "reward/bradley_terry": {},
    "reward/filtered": {"max_length": 52},
}
METRICS = {
    "dpo": [
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ],
    "sft": ["mean_token_accuracy"],
    "reward": ["accuracy", "margin", "min_reward", "mean_reward", "max_reward"],
}


# The text: questions about things; a chosen answer is civil and to the point, a rejected one is not.

THINGS = ["lamp", "river", "garden", "café", "violin", "kettle", "naïveté"]
THINGS += ["bridge", "über-cat", "engine", "window", "forest", "東京", "blanket"]
PLACES = ["kitchen", "old harbour", "museum", "attic", "long corridor", "second floor", "village square"]
GOOD = ["is bright and quiet", "stands near the door", "was mended last week"]
GOOD += ["works well, thank you", "is open until nine"]
BAD = ["is whatever", "who knows", "broke again, sorry", "does not matter at all"]
BAD += ["is 3.14159 metres of nonsense"]
ASK = ["Where is the {}?", "Tell me about the {}:", "How does the {} of the {} work?", "The {}"]
ASK += ["What of it, {} or {}?"]


def sentence(dice: random.Random, verdicts: list[str]) -> str:
    clauses = [
        f"the {dice.choice(THINGS)} {dice.choice(verdicts)}" for _ in range(dice.choice([1, 1, 1, 2, 3]))
    ]
    return " " + ", and ".join(clauses) + dice.choice([".", "!", "", " …"])


def prompt(dice: random.Random) -> str:
    asked = dice.choice(ASK).format(dice.choice(THINGS), dice.choice(PLACES))
    return f"In the {dice.choice(PLACES)}. {asked}" if dice.random() < 0.3 else asked


def make_pairs(dice: random.Random, rows: int) -> list[dict[str, str]]:
    return [
        {"prompt": prompt(dice), "chosen": sentence(dice, GOOD), "rejected": sentence(dice, BAD)}
        for _ in range(rows)
    ]


def make_sft(dice: random.Random, rows: int) -> list[dict[str, str]]:
    return [{"prompt": prompt(dice), "completion": sentence(dice, GOOD)} for _ in range(rows)]


# Rows that only show what TRL's tokenisation does at the edges.
EDGES = [
    {
        "prompt": "The lamp",
        "chosen": " is open.</s>",
        "rejected": " is whatever",
    },  # an EOS that is already there
    {
        "prompt": "The vio",
        "chosen": "lin is open",
        "rejected": "let is whatever",
    },  # a merge across the boundary
    {"prompt": "The lamp ", "chosen": "is open", "rejected": "is whatever"},  # a space before the boundary
    {"prompt": "The lamp", "chosen": "", "rejected": " is whatever"},  # an empty completion
]


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def make_model(kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> transformers.PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **({"num_labels": 1} if kind is LlamaForSequenceClassification else {}),
    )
    model = kind(config).float()
    with torch.no_grad():
        # Sorted by name, so that the draw does not hang on the order in which a library builds layers.
        for name, weight in sorted(model.named_parameters()):
            weight.uniform_(0.5, 1.5) if "norm" in name else weight.normal_(0.0, 0.2)
    return model


def recorded(kind):
    """The trainer `kind`, which also keeps the raw loss of each microbatch, the batches, and what it logs."""

    class Recorded(kind):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if not self.kept_batches:
                self.kept_batches.append({name: value.tolist() for name, value in inputs.items()})
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            self.kept_losses.append(loss.item())
            return loss

        def log(self, logs, *args, **kwargs):
            super().log(logs, *args, **kwargs)
            self.kept_logs.append(copy.deepcopy(logs))

    return Recorded


class RateUsed(transformers.TrainerCallback):
    def __init__(self):
        self.rates = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])


def train(name: str, directory: Path, rows: list[dict[str, str]], changes: dict) -> tuple[dict, dict, object]:
    """One curve: `changes` to the common settings; returns the settings, the curve and the trainer."""
    family = name.split("/")[0]
    kind, config = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
    }[family]
    settings = {**COMMON, **changes}
    rates = RateUsed()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = recorded(kind)(
            model=str(directory),
            args=config(output_dir=scratch, **settings),
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[rates],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.kept_losses, trainer.kept_batches, trainer.kept_logs = [], [], []
        trainer.train()

    each = settings["gradient_accumulation_steps"]
    groups = [trainer.kept_losses[i : i + each] for i in range(0, each * STEPS, each)]
    losses = [sum(group) if family == "sft" else sum(group) / each for group in groups]
    logs = [entry for entry in trainer.kept_logs if "loss" in entry]
    assert len(trainer.kept_losses) == each * STEPS
    assert len(logs) == len(rates.rates) == STEPS
    for ours, entry in zip(losses, logs, strict=True):
        assert abs(ours - entry["loss"]) <= 2e-6 * max(1.0, abs(ours)), (name, ours, entry["loss"])
    curve = {
        "loss": losses,
        "learning_rate": rates.rates,
        "grad_norm": [entry["grad_norm"] for entry in logs],
    }
    for metric in METRICS[family]:
        curve[metric] = [entry[metric] for entry in logs]
    settings = {key: value for key, value in settings.items() if key not in PLUMBING}
    settings["rows_kept"] = len(trainer.train_dataset)
    return settings, curve, trainer


def shaken(directory: Path, into: Path) -> Path:
    """A copy of the model whose weights are multiplied by 1 ± 1e-7, each by a draw of its own."""
    shutil.copytree(directory, into)
    torch.manual_seed(7)
    weights = load_file(directory / "model.safetensors")
    moved = {
        k: (v.double() * (1 + 1e-7 * torch.randn(v.shape).sign().double())).float()
        for k, v in weights.items()
    }
    save_file(moved, into / "model.safetensors", metadata={"format": "pt"})
    return into


def nine_digits(curve: dict[str, list[float]]) -> dict[str, list[float]]:
    return {metric: [float(f"{value:.9g}") for value in values] for metric, values in curve.items()}


def edges(policy: Path) -> list[dict]:
    """What TRL makes of each of EDGES; one row at a time, since a filter could drop a row."""
    found = []
    for row in EDGES:
        trainer = trl.DPOTrainer(
            model=str(policy),
            args=trl.DPOConfig(output_dir="unused", bf16=False, use_cpu=True, report_to="none"),
            train_dataset=datasets.Dataset.from_list([row]),
        )
        found.append(
            {**row, **{k: trainer.train_dataset[0][k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")}}
        )
    return found


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, document: dict) -> None:
    """Indented, except for a list of numbers, which stands on one line."""

    def shown(value, indent: str) -> str:
        deeper = indent + " "
        if isinstance(value, dict):
            items = (f"{deeper}{json.dumps(k)}: {shown(v, deeper)}" for k, v in value.items())
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            return "[\n" + ",\n".join(deeper + shown(v, deeper) for v in value) + f"\n{indent}]"
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    path.write_text(shown(document, "") + "\n", encoding="utf-8")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    out.mkdir(parents=True, exist_ok=True)

    dice = random.Random(2)
    rows = {"pairs": make_pairs(dice, 320), "sft": make_sft(dice, 320)}
    write_jsonl(out / "pairs.jsonl", rows["pairs"])
    write_jsonl(out / "sft.jsonl", rows["sft"])

    tokenizer = make_tokenizer([text for row in rows["pairs"] + rows["sft"] for text in row.values()])
    kinds = {"policy": LlamaForCausalLM, "reward": LlamaForSequenceClassification}
    for seed, (directory, kind) in enumerate(kinds.items()):
        shutil.rmtree(out / directory, ignore_errors=True)
        make_model(kind, tokenizer, seed).save_pretrained(out / directory)
        (out / directory / "model.safetensors").chmod(0o644)
        tokenizer.save_pretrained(out / directory)

    document = {
        "versions": {
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
            "datasets": datasets.__version__,
        },
        "curves": {},
        "first_batch": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, changes in CURVES.items():
            family = name.split("/")[0]
            directory = out / ("reward" if family == "reward" else "policy")
            data = "sft" if family == "sft" else "pairs"
            settings, curve, trainer = train(name, directory, rows[data], changes)
            _, other, _ = train(
                name, shaken(directory, Path(scratch) / name.replace("/", "-")), rows[data], changes
            )
            moved = max(abs(a - b) for a, b in zip(curve["loss"], other["loss"], strict=True))
            document["curves"][name] = {
                "versions": {key: document["versions"][key] for key in ("trl", "transformers", "torch")},
                "model": directory.name,
                "data": f"{data}.jsonl",
                "settings": settings,
                "sensitivity": float(f"{moved:.2g}"),
                **nine_digits(curve),
            }
            # Same text, same tokeniser: one first batch for each trainer, and one for each max_length.
            if "truncated" in name or name in ("dpo/sigmoid", "sft/nll", "reward/bradley_terry"):
                document["first_batch"][name] = trainer.kept_batches[0]
            first, last = curve["loss"][0], curve["loss"][-1]
            kept = settings["rows_kept"]
            print(f"{name:24s} loss {first:.6f} -> {last:.6f}, moved by {moved:.1e}, {kept} rows kept")
    document["edges"] = edges(out / "policy")
    write_json(out / "curves.json", document)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
