"""What TRL makes of the rows of `ROWS` and of `chats`: writes `trl_tokens.json`. Needs the extra [oracle].

python -m tests.data.trl_tokens            with TRL 1.16
python -m tests.data.trl_tokens stepwise   with TRL 1.12, the last that had a PRMTrainer; the rest stays as it is
"""

import json
import sys
import tempfile
from pathlib import Path

from tests.data.chats import MAX_LENGTH as CHAT_LENGTH
from tests.data.chats import TEMPLATES, chat_tokenizer, completions_of, conversations_of, pairs_of
from tests.data.small import bpe_tokenizer

GOLDEN = Path(__file__).with_name("trl_tokens.json")
MAX_LENGTH = 12

# Unicode, EOS at the end and in the middle, tokens across the boundary of one or both completions, over-long
# completions, prompts that fill the limit, exactly and by one.
ROWS = [
    ("the cat", " yes", " no"),
    ("Is it the cat? ", "yes", "x"),
    ("é ca", "t</s>", "fé中"),
    ("no", "a</s>b", "</s>"),
    ("the the the", " a long answer", " no"),
    ("the the the the the the the the the the", " yes", " no"),
    ("the the the the the the the the the the the", " yes", " no"),
    ("abcdefghijk", "l", "mnopq"),
    ("abcdefghij", "kl", "m"),
    ("line\n", "\n", " \n"),
    (" ", " the", "the"),
]
# Texts whole: some over-long.
TEXTS = [prompt + chosen for prompt, chosen, _ in ROWS]
# Steps: the last ones over-long, the last step exactly as long as the limit, no step that ends within it.
STEPWISE_ROWS = [
    {"prompt": "the cat", "completions": ["yes", " no é", "a\n"], "labels": [True, False, True]},
    {"prompt": "Is it? ", "completions": ["the", "cat", "abc"], "labels": [False, True, False]},
    {"prompt": "no", "completions": ["the the the the the the the the"], "labels": [True]},
    {"prompt": "no", "completions": ["the the the the the the the the the the"], "labels": [True]},
]


def trl_tokens() -> dict:
    """For each trainer: the rows it keeps, as it would feed them to the model."""
    columns = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    completions = [{"prompt": prompt, "completion": chosen} for prompt, chosen, _ in ROWS]
    labelled = [{**row, "label": i % 2 == 0} for i, row in enumerate(completions)]
    text = _Trainers(bpe_tokenizer, MAX_LENGTH)
    made = {
        "dpo": text.dpo(columns),
        "sft": text.sft(completions),
        "reward": text.reward(columns),
        "kto": text.kto(labelled),
        "text": text.sft([{"text": text} for text in TEXTS]),
    }
    for family, template in TEMPLATES.items():
        chat = _Trainers(lambda template=template: chat_tokenizer(template), CHAT_LENGTH)
        answered = completions_of(family)
        made[family] = {
            "dpo": chat.dpo(pairs_of(family)),
            "reward": chat.reward(pairs_of(family)),
            "sft": chat.sft([{name: row[name] for name in row if name != "label"} for row in answered]),
            "kto": chat.kto(answered),
            "messages": chat.sft(conversations_of(family)),
        }
    chat = _Trainers(lambda: chat_tokenizer(TEMPLATES["chatml"]), CHAT_LENGTH)
    made["chatml"]["assistant"] = chat.sft(conversations_of("chatml"), assistant_only_loss=True)
    return made


class _Trainers:
    """Each trainer's rows of a data set, for one tokeniser and length."""

    def __init__(self, tokenizer, max_length: int):
        from transformers import LlamaConfig

        self.tokenizer, self.max_length = tokenizer, max_length
        self.model = LlamaConfig(
            vocab_size=len(tokenizer()), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, num_labels=1,
        )  # fmt: skip

    def dpo(self, rows) -> dict:
        from trl import DPOConfig, DPOTrainer

        made = self._trainer(DPOTrainer, DPOConfig, rows, ref_model=self._model())
        ids, starts = self._collated(made)
        kept = len(made.train_dataset)
        return {
            "row": list(made.train_dataset["row"]),
            "chosen": ids[:kept],
            "rejected": ids[kept:],
            "prompt_lengths": starts[:kept],
            "rejected_prompt_lengths": starts[kept:],
        }

    def kto(self, rows) -> dict:
        from trl import KTOConfig, KTOTrainer

        made = self._trainer(
            KTOTrainer, KTOConfig, rows, ref_model=self._model(), loss_type="apo_zero_unpaired"
        )
        ids, starts = self._collated(made)
        return {
            "row": list(made.train_dataset["row"]),
            "completion": ids,
            "prompt_lengths": starts,
            "label": [float(label) for label in made.train_dataset["label"]],
        }

    def sft(self, rows, **choices) -> dict:
        from trl import SFTConfig, SFTTrainer

        made = self._trainer(SFTTrainer, SFTConfig, rows, **choices).train_dataset
        learned = [[int(label != -100) for label in labels] for labels in made["labels"]]
        return {
            "row": list(made["row"]),
            "completion": [list(ids) for ids in made["input_ids"]],
            "learned": learned,
        }

    def reward(self, rows) -> dict:
        from transformers import LlamaForSequenceClassification
        from trl import RewardConfig, RewardTrainer

        model = LlamaForSequenceClassification(self.model)
        made = self._trainer(RewardTrainer, RewardConfig, rows, model=model).train_dataset
        return {
            "row": list(made["row"]),
            "chosen": [list(ids) for ids in made["chosen_ids"]],
            "rejected": [list(ids) for ids in made["rejected_ids"]],
        }

    def _model(self):
        from transformers import LlamaForCausalLM

        return LlamaForCausalLM(self.model)

    def _trainer(self, kind, config, rows, *, model=None, ref_model=None, **choices):
        from datasets import Dataset

        # A set has the columns of its first row, and TRL wants settings in every row where it has that column.
        filled = [
            {"chat_template_kwargs": {}, "tools": None, **row, "row": i}
            if "text" not in row
            else {**row, "row": i}
            for i, row in enumerate(rows)
        ]
        with tempfile.TemporaryDirectory() as directory:
            args = config(
                output_dir=directory,
                max_length=self.max_length,
                bf16=False,
                use_cpu=True,
                report_to=[],
                **choices,
            )
            more = {} if ref_model is None else {"ref_model": ref_model}
            return kind(
                model=model or self._model(), args=args, train_dataset=Dataset.from_list(filled),
                processing_class=self.tokenizer(), **more,
            )  # fmt: skip

    def _collated(self, trainer) -> tuple[list, list]:
        """What the collator feeds: ids without padding, and where completions start."""
        batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
        lengths = batch["attention_mask"].sum(1).tolist()
        ids = [row[:n] for row, n in zip(batch["input_ids"].tolist(), lengths, strict=True)]
        masks = [row[:n] for row, n in zip(batch["completion_mask"].tolist(), lengths, strict=True)]
        return ids, [mask.index(1) for mask in masks]


def trl_steps() -> list[dict]:
    """The rows of `STEPWISE_ROWS` as PRMTrainer tokenises them; -100 stands where there is no label."""
    from trl.experimental.prm import PRMTrainer

    return [
        PRMTrainer.tokenize_row(
            row, bpe_tokenizer(), step_separator="\n", max_length=MAX_LENGTH, max_completion_length=None,
            train_on_last_step_only=False, is_eval=False,
        )
        for row in STEPWISE_ROWS
    ]  # fmt: skip


if __name__ == "__main__":
    golden = json.loads(GOLDEN.read_text())
    golden |= {"stepwise": trl_steps()} if sys.argv[1:] == ["stepwise"] else trl_tokens()
    GOLDEN.write_text(json.dumps(golden) + "\n")
