"""What TRL makes of the rows of `ROWS`: writes `trl_tokens.json`. Needs the extra [oracle].

python -m tests.data.trl_tokens
"""

import json
import tempfile
from pathlib import Path

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


def trl_tokens() -> dict:
    """For each trainer: the rows it keeps, as it would feed them to the model at `MAX_LENGTH`."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    tokenizer = bpe_tokenizer()
    small = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, num_labels=1,
    )  # fmt: skip
    columns = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
    pairs = Dataset.from_list([{**row, "row": i} for i, row in enumerate(columns)])
    completions = Dataset.from_list(
        [{"prompt": r["prompt"], "completion": r["chosen"], "row": i} for i, r in enumerate(columns)]
    )

    with tempfile.TemporaryDirectory() as directory:
        common = {
            "output_dir": directory,
            "max_length": MAX_LENGTH,
            "bf16": False,
            "use_cpu": True,
            "report_to": [],
        }

        def trainer(kind, config, model, rows, **more):
            args = config(**common)
            return kind(model=model, args=args, train_dataset=rows, processing_class=bpe_tokenizer(), **more)

        reference = LlamaForCausalLM(small)
        dpo = trainer(DPOTrainer, DPOConfig, LlamaForCausalLM(small), pairs, ref_model=reference)
        sft = trainer(SFTTrainer, SFTConfig, LlamaForCausalLM(small), completions)
        reward = trainer(RewardTrainer, RewardConfig, LlamaForSequenceClassification(small), pairs)

        collated = dpo.data_collator([dict(row) for row in dpo.train_dataset])
        lengths = collated["attention_mask"].sum(1).tolist()
        ids = [row[:n] for row, n in zip(collated["input_ids"].tolist(), lengths, strict=True)]
        masks = [row[:n] for row, n in zip(collated["completion_mask"].tolist(), lengths, strict=True)]
        kept = len(dpo.train_dataset)
        return {
            "dpo": {
                "row": list(dpo.train_dataset["row"]),
                "chosen": ids[:kept],
                "rejected": ids[kept:],
                "prompt_lengths": [mask.index(1) for mask in masks[:kept]],
                "rejected_prompt_lengths": [mask.index(1) for mask in masks[kept:]],
            },
            "sft": {
                "row": list(sft.train_dataset["row"]),
                "completion": [list(ids) for ids in sft.train_dataset["input_ids"]],
                "prompt_lengths": [
                    next(i for i, label in enumerate(labels) if label != -100)
                    for labels in sft.train_dataset["labels"]
                ],
            },
            "reward": {
                "row": list(reward.train_dataset["row"]),
                "chosen": [list(ids) for ids in reward.train_dataset["chosen_ids"]],
                "rejected": [list(ids) for ids in reward.train_dataset["rejected_ids"]],
            },
        }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(trl_tokens()) + "\n")
