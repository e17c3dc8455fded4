"""Trains tiny models with TRL and writes down the loss of every step, for our own trainer to reproduce.

    HF_HUB_OFFLINE=1 python tests/goldens/trl/make.py [--out DIRECTORY] [CURVE ...]

Needs the extra [oracle] and peft; on a CPU all of it takes five minutes. Writes next to itself, or into
DIRECTORY; of named curves only those are made again, in curves.json as it is. The same versions on the same
kind of CPU write the same bytes.

    policy/        LlamaForCausalLM, random weights, with its tokeniser
    reward/        LlamaForSequenceClassification (num_labels 1), other random weights, same tokeniser
    llama3/, mistral/, qwen2/, qwen3/, gemma2/, gemma3/     a language model of each family, in bfloat16
    qwen2_reward/  Qwen2ForSequenceClassification
    chat/          a Qwen 3 whose tokeniser has a chat template and two tokens more
    lora/          the adapter that dpo/lora starts from, as PEFT saves it
    pairs.jsonl    320 rows of prompt, chosen, rejected
    sft.jsonl      320 rows of prompt, completion
    unpaired.jsonl 256 rows of prompt, completion, label
    chats.jsonl    160 rows of prompt, completion, which are lists of messages
    conversations.jsonl     160 rows of messages
    curves.json    versions, settings, curves, and the ids that TRL made of the text

**The models** (made_models.py). Hidden 32, 2 layers (Gemma 3: 4), 4 query and 2 key-value heads of 8 to 16, MLP 64
or 48. Weights are normal with standard deviation 0.2; the scales of the norms are uniform on ±0.5 around what does
nothing, so that a loader that forgets one is found out. TRL loads all of them in float32. Llama 3 has its scaled
rotary frequencies and biases everywhere; Mistral a window of 6 tokens; Qwen 2 biases and a tied head; Qwen 3 norms
of queries and keys; Gemma 2 soft caps of 2 and 3 and a window in every other layer; Gemma 3 windows in three layers
of four and two sorts of rotary frequencies. Each of these moves log-probabilities by 0.01 nat a token or more,
which is asserted here.

**The text** (made_text.py). The tokeniser is a byte-level BPE of 384 entries trained on the text made here; pad is
`<pad>` (0), EOS is `</s>` (1), there is no BOS, and nothing is added to a text by itself. Every prompt ends in a
letter or in punctuation and every completion begins with a space, so tokens never merge across the boundary; there
are words outside ASCII; no completion carries an EOS of its own. Rows that break these habits are under `edges` in
curves.json, tokenised but never trained on. Conversations have one turn or two, some after a system message.

**How every curve was produced.** A fresh trainer per curve (`DPOTrainer`, `SFTTrainer`, `RewardTrainer`,
`KTOTrainer`), given the directory as a string, so that TRL loads the model in float32 and, for DPO and KTO, a second
copy of it as the frozen reference. 30 optimiser steps; 8 rows a microbatch; rows in file order, that is
`train_sampling_strategy="sequential"`, beginning again with the first row at the end of the file; AdamW,
learning rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, no weight decay; gradients clipped to a global norm
of 1; constant learning rate; max_length 1024; no dropout, no gradient checkpointing, no mixed precision,
one thread. What a curve changes is below, and everything is in its `settings`:

    dpo/sigmoid, hinge, apo_zero, ipo, apo_down, nca_pair, bco_pair    beta 0.1
    dpo/robust                beta 0.1, label smoothing 0.1
    dpo/discopop              beta 0.1, learning rate 2e-4: its halves change places within a twentieth
    dpo/exo_pair              beta 0.1, label smoothing 0.001, which is TRL's advice
    dpo/sigmoid_norm          beta 2, since log-ratios are divided by lengths
    dpo/rpo                   loss_type ["sigmoid", "sft"], weights 1 and 1
    dpo/sppo_hard             beta 0.5, learning rate 1e-4: squares of summed log-ratios, which rounding
                              disturbs most
    dpo/sigmoid_linear        5 steps of warm-up, the first at rate 0, then a linear fall to 0 after step 30
    dpo/sigmoid_accumulate    2 microbatches of 8 a step: 480 rows, so the file begins again after step 20
    dpo/sigmoid_truncated     max_length 24: about half of the completions lose their end, and rows whose
                              prompt alone fills it are dropped
    dpo/llama3, mistral, qwen2, qwen3, gemma2, gemma3    dpo/sigmoid with that model
    dpo/lora                  adapters of rank 4 and alpha 8 on every linear layer, learning rate 5e-3; the
                              reference is the model with them off
    sft/nll                   loss on the completion only, which is TRL's default for such rows
    sft/accumulate            2 microbatches of 8 a step, one division by the tokens of both
    sft/truncated             max_length 24
    sft/chat                  conversational prompt and completion: loss on the completion
    sft/messages              conversations: loss on every token but the first
    sft/assistant             conversations: loss on what the assistant says (assistant_only_loss)
    reward/bradley_terry      -log sigmoid(score of chosen - score of rejected), read at the last token, EOS
    reward/filtered           max_length 52: TRL drops, and does not truncate, a pair with a longer side
    reward/qwen2              reward/bradley_terry with that model
    kto/kto, apo_zero_unpaired    beta 0.1; every step has both labels

**What is recorded, per optimiser step.** `loss` is the number that `compute_loss` returned, before the
update; with accumulation the mean of the microbatches (DPO) or their sum (SFT, where each is already divided
by the tokens of the whole step). It is compared here with what the trainer logs. `grad_norm` is the norm
before clipping. `learning_rate` is the rate that the update used. The other metrics are those that TRL logs:
means over the pairs (KTO: over the rows of a label), then over the microbatches; `rewards/*` are beta times the
log-ratio, `logps/*` are sums over the completion. Numbers carry nine digits, which is all that a float32 holds.
`first_batch` has the padded ids and masks of the first microbatch; of pairs, chosen rows come first.

**How much of it is rounding.** `sensitivity` is the largest change of the loss over the 30 steps when every
initial weight is multiplied by 1 + 1e-7 or 1 - 1e-7 at random, i.e. moved by about one unit in its last
place. A faithful implementation should land within a small multiple of it.
"""

import argparse
import copy
import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import datasets
import peft
import tokenizers
import torch
import transformers
import trl
from made_models import FAMILIES, make_family, make_llama, require_that_all_matters, shake
from made_text import (
    EDGES,
    make_conversations,
    make_pairs,
    make_sft,
    make_tokenizer,
    make_unpaired,
    write_json,
    write_jsonl,
)
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

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


class Curve(NamedTuple):
    """What distinguishes one curve: changes to the common settings, and what it is trained on."""

    changes: dict[str, Any]
    model: str = "policy"
    data: str = "pairs"
    adapter: str = ""  # directory of the adapter that is trained in place of the model


TRAINERS = {
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
}
SIGMOID = {"loss_type": ["sigmoid"], "beta": 0.1}
# Gemma 2's soft caps are in this attention alone.
EAGER = {"model_init_kwargs": {"attn_implementation": "eager"}}
CURVES = {
    "dpo/sigmoid": Curve(SIGMOID),
    "dpo/ipo": Curve({"loss_type": ["ipo"], "beta": 0.1}),
    "dpo/hinge": Curve({"loss_type": ["hinge"], "beta": 0.1}),
    "dpo/robust": Curve({"loss_type": ["robust"], "beta": 0.1, "label_smoothing": 0.1}),
    "dpo/apo_zero": Curve({"loss_type": ["apo_zero"], "beta": 0.1}),
    "dpo/sppo_hard": Curve({"loss_type": ["sppo_hard"], "beta": 0.5, "learning_rate": 1e-4}),
    "dpo/sigmoid_linear": Curve({**SIGMOID, "lr_scheduler_type": "linear", "warmup_steps": 5}),
    "dpo/sigmoid_accumulate": Curve({**SIGMOID, "gradient_accumulation_steps": 2}),
    "dpo/sigmoid_truncated": Curve({**SIGMOID, "max_length": 24}),
    "sft/nll": Curve({}, data="sft"),
    "sft/accumulate": Curve({"gradient_accumulation_steps": 2}, data="sft"),
    "sft/truncated": Curve({"max_length": 24}, data="sft"),
    "reward/bradley_terry": Curve({}, model="reward"),
    "reward/filtered": Curve({"max_length": 52}, model="reward"),
    "dpo/exo_pair": Curve({"loss_type": ["exo_pair"], "beta": 0.1, "label_smoothing": 1e-3}),
    "dpo/nca_pair": Curve({"loss_type": ["nca_pair"], "beta": 0.1}),
    "dpo/bco_pair": Curve({"loss_type": ["bco_pair"], "beta": 0.1}),
    "dpo/apo_down": Curve({"loss_type": ["apo_down"], "beta": 0.1}),
    "dpo/discopop": Curve({"loss_type": ["discopop"], "beta": 0.1, "learning_rate": 2e-4}),
    "dpo/sigmoid_norm": Curve({"loss_type": ["sigmoid_norm"], "beta": 2.0}),
    "dpo/rpo": Curve({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "beta": 0.1}),
    "dpo/llama3": Curve(SIGMOID, model="llama3"),
    "dpo/mistral": Curve(SIGMOID, model="mistral"),
    "dpo/qwen2": Curve(SIGMOID, model="qwen2"),
    "dpo/qwen3": Curve(SIGMOID, model="qwen3"),
    "dpo/gemma2": Curve({**SIGMOID, **EAGER}, model="gemma2"),
    "dpo/gemma3": Curve(SIGMOID, model="gemma3"),
    "dpo/lora": Curve({**SIGMOID, "learning_rate": 5e-3}, adapter="lora"),
    "sft/chat": Curve({}, model="chat", data="chats"),
    "sft/messages": Curve({}, model="chat", data="conversations"),
    "sft/assistant": Curve({"assistant_only_loss": True}, model="chat", data="conversations"),
    "reward/qwen2": Curve({}, model="qwen2_reward"),
    "kto/kto": Curve({"loss_type": "kto", "beta": 0.1}, data="unpaired"),
    "kto/apo_zero_unpaired": Curve({"loss_type": "apo_zero_unpaired", "beta": 0.1}, data="unpaired"),
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
    "kto": ["kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"],
}
# Same text, same tokeniser: one first batch for each trainer, and one for each max_length.
FIRST_BATCHES = {
    "dpo/sigmoid", "dpo/sigmoid_truncated", "sft/nll", "sft/truncated", "reward/bradley_terry",
    "sft/chat", "sft/messages", "sft/assistant", "kto/kto",
}  # fmt: skip
ADAPTER = {
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
    "task_type": "CAUSAL_LM",
}


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


def train(
    name: str, directory: Path, rows: list[dict], adapter: Path | None = None
) -> tuple[dict, dict, object]:
    """One curve on the model of a directory; returns the settings, the curve and the trainer.

    Where the curve has an adapter, the one that training starts from is written to `adapter`.
    """
    algorithm, wanted = name.split("/")[0], CURVES[name]
    kind, config = TRAINERS[algorithm]
    settings = {**COMMON, **wanted.changes}
    rates = RateUsed()
    torch.manual_seed(5)  # for A
    with tempfile.TemporaryDirectory() as scratch:
        trainer = recorded(kind)(
            model=str(directory),
            args=config(output_dir=scratch, **copy.deepcopy(settings)),
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[rates],
            **({"peft_config": peft.LoraConfig(**ADAPTER)} if wanted.adapter else {}),
        )
        if adapter is not None:
            write_adapter(trainer.model, adapter, base=wanted.model)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.kept_losses, trainer.kept_batches, trainer.kept_logs = [], [], []
        trainer.train()

    each = settings["gradient_accumulation_steps"]
    groups = [trainer.kept_losses[i : i + each] for i in range(0, each * STEPS, each)]
    losses = [sum(group) if algorithm == "sft" else sum(group) / each for group in groups]
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
    for metric in METRICS[algorithm]:
        curve[metric] = [entry[metric] for entry in logs]
    settings = {key: value for key, value in settings.items() if key not in PLUMBING}
    settings["rows_kept"] = len(trainer.train_dataset)
    return settings, curve, trainer


def write_adapter(model, directory: Path, *, base: str) -> None:
    """As PEFT saves it, but for the name of the base, which is a path of this machine."""
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()  # a form to be filled in
    (directory / "adapter_model.safetensors").chmod(0o644)
    path = directory / "adapter_config.json"
    fields = {**json.loads(path.read_text()), "base_model_name_or_path": base}
    fields["target_modules"] = sorted(fields["target_modules"])  # a set, in whatever order
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def shaken(directory: Path, into: Path) -> Path:
    """A copy of the model whose weights are multiplied by 1 ± 1e-7, each by a draw of its own."""
    shutil.copytree(directory, into)
    shake(directory / "model.safetensors", into / "model.safetensors")
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


def make_data() -> dict[str, list[dict]]:
    dice, others = random.Random(2), random.Random(3)
    rows = {"pairs": make_pairs(dice, 320), "sft": make_sft(dice, 320)}
    rows["unpaired"] = make_unpaired(others, 256)
    conversations = make_conversations(others, 320)
    rows["chats"] = [{"prompt": talk[:-1], "completion": talk[-1:]} for talk in conversations[:160]]
    rows["conversations"] = [{"messages": talk} for talk in conversations[160:]]
    return rows


def make_models(out: Path, rows: dict[str, list[dict]]) -> None:
    texts = [text for row in rows["pairs"] + rows["sft"] for text in row.values()]
    tokenizer, chat = make_tokenizer(texts), make_tokenizer(texts, chat=True)

    def save(directory: str, model, tokenizer) -> None:
        shutil.rmtree(out / directory, ignore_errors=True)
        model.save_pretrained(out / directory)
        (out / directory / "model.safetensors").chmod(0o644)
        tokenizer.save_pretrained(out / directory)

    save("policy", make_llama(LlamaForCausalLM, tokenizer, 0), tokenizer)
    save("reward", make_llama(LlamaForSequenceClassification, tokenizer, 1), tokenizer)
    for seed, family in enumerate(FAMILIES, 2):
        save(family, make_family(family, tokenizer, seed), tokenizer)
        sample = [row["prompt"] + row["chosen"] for row in rows["pairs"][:8]]
        require_that_all_matters(family, make_family(family, tokenizer, seed), sample, tokenizer)
    classifier = make_family("qwen2", tokenizer, 8, kind="Qwen2ForSequenceClassification")
    save("qwen2_reward", classifier, tokenizer)
    # More embeddings than tokens, as many published models have.
    save("chat", make_family("qwen3", chat, 9, vocab_size=400), chat)


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    out.mkdir(parents=True, exist_ok=True)

    rows = make_data()
    versions = {
        each.__name__: each.__version__ for each in (trl, transformers, torch, tokenizers, datasets, peft)
    }
    document: dict[str, Any] = {"versions": versions, "curves": {}, "first_batch": {}}
    if names:
        document = json.loads((out / "curves.json").read_text())
        assert document["versions"] == versions, "other versions: make all of them"
    else:
        for name, each in rows.items():
            write_jsonl(out / f"{name}.jsonl", each)
        make_models(out, rows)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names or CURVES:
            wanted = CURVES[name]
            directory, data = out / wanted.model, rows[wanted.data]
            settings, curve, trainer = train(
                name, directory, data, out / wanted.adapter if wanted.adapter else None
            )
            _, other, _ = train(name, shaken(directory, Path(scratch) / name.replace("/", "-")), data)
            moved = max(abs(a - b) for a, b in zip(curve["loss"], other["loss"], strict=True))
            document["curves"][name] = {
                "versions": {key: versions[key] for key in ("trl", "transformers", "torch")},
                "model": wanted.model,
                "data": f"{wanted.data}.jsonl",
                **({"adapter": wanted.adapter} if wanted.adapter else {}),
                "settings": settings,
                "sensitivity": float(f"{moved:.2g}"),
                **nine_digits(curve),
            }
            if name in FIRST_BATCHES:
                document["first_batch"][name] = trainer.kept_batches[0]
            first, last = curve["loss"][0], curve["loss"][-1]
            kept = settings["rows_kept"]
            print(f"{name:24s} loss {first:.6f} -> {last:.6f}, moved by {moved:.1e}, {kept} rows kept")
    if not names:
        document["edges"] = edges(out / "policy")
    write_json(out / "curves.json", document)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Trains tiny models with TRL.")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments.add_argument("curves", nargs="*", help="only these, into curves.json as it is")
    given = arguments.parse_args()
    main(given.out, given.curves)
