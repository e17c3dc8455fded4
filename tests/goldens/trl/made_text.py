"""The text that TRL's curves are made on: questions about things, answered civilly or not, and its tokenisers."""

import json
import random
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast

THINGS = ["lamp", "river", "garden", "café", "violin", "kettle", "naïveté"]
THINGS += ["bridge", "über-cat", "engine", "window", "forest", "東京", "blanket"]
PLACES = ["kitchen", "old harbour", "museum", "attic", "long corridor", "second floor", "village square"]
GOOD = ["is bright and quiet", "stands near the door", "was mended last week"]
GOOD += ["works well, thank you", "is open until nine"]
BAD = ["is whatever", "who knows", "broke again, sorry", "does not matter at all"]
BAD += ["is 3.14159 metres of nonsense"]
ASK = ["Where is the {}?", "Tell me about the {}:", "How does the {} of the {} work?", "The {}"]
ASK += ["What of it, {} or {}?"]

# ChatML, which says what an assistant says.
CHAT = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{%- else %}{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

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


def make_unpaired(dice: random.Random, rows: int) -> list[dict]:
    """Among every eight rows, which are a step, there are both labels, in no order."""
    made = []
    for row in range(rows):
        label = {0: True, 1: False}.get(row % 8, dice.random() < 0.6)
        made.append(
            {
                "prompt": prompt(dice),
                "completion": sentence(dice, GOOD if label else BAD),
                "label": label,
            }
        )
    return [row for first in range(0, rows, 8) for row in dice.sample(made[first : first + 8], 8)]


def make_conversations(dice: random.Random, rows: int) -> list[list[dict[str, str]]]:
    """Messages, the last of them an assistant's: of one turn or two, some after a system message."""
    made = []
    for _ in range(rows):
        messages = []
        if dice.random() < 0.3:
            messages.append({"role": "system", "content": f"You are in the {dice.choice(PLACES)}."})
        for _ in range(dice.choice([1, 1, 2])):
            messages.append({"role": "user", "content": prompt(dice)})
            messages.append({"role": "assistant", "content": sentence(dice, GOOD).strip().capitalize()})
        made.append(messages)
    return made


def make_tokenizer(texts: list[str], *, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE; for `chat` with two more tokens and a template."""
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
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    if chat:
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
        tokenizer.chat_template = CHAT
    return tokenizer


def write_jsonl(path: Path, rows: list[dict]) -> None:
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
