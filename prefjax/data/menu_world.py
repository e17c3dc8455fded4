"""The files of the menu: a mediocre waiter's replies, pairs that the gold preference labels, a tokeniser."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefjax.checks import require
from prefjax.data.menu import DISHES, NAMES, NUMBERS, Form, Wish, gold_preference, read_wish, write_reply
from prefjax.data.tokenisers import quiet_transformers

# No template starts with a name, so that a name is the same token in a prompt and in a reply.
TEMPLATES = (
    "Guest {name} asks for {number} {quality} dishes.",
    "Serve {name} {number} {quality} dishes.",
    "Bring {number} {quality} dishes for {name}.",
    "Table of {name}, {number} dishes, all {quality}.",
)


class Split(NamedTuple):
    """The prompts in three parts, no two of which share a wish."""

    train: list[str]
    validation: list[str]
    heldout: list[str]


class World(NamedTuple):
    """The files of a world. `manifest` is put in place last: where it is, the others are whole."""

    sft: Path
    sft_validation: Path
    pairs: Path
    pairs_validation: Path
    prompts: Path
    heldout: Path
    manifest: Path


def split_prompts(seed: int) -> Split:
    """All prompts, split by wish: a fifth of the wishes held out, a tenth for validation."""
    wishes = [Wish(name, number, quality) for name in NAMES for number in NUMBERS for quality in DISHES]

    def lot(thing: Wish | str) -> bytes:
        return hashlib.sha256(f"{seed} {thing}".encode()).digest()

    wishes.sort(key=lot)
    fifth, tenth = len(wishes) // 5, len(wishes) // 10
    parts = wishes[fifth + tenth :], wishes[fifth : fifth + tenth], wishes[:fifth]
    asked = ([template.format(**wish._asdict()) for wish in part for template in TEMPLATES] for part in parts)
    return Split(*(sorted(prompts, key=lot) for prompts in asked))


def draw_demonstrations(prompts: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A mediocre waiter's reply to each prompt.

    Some days he cares more: then he lists more, picks better and is more polite. Among his replies the
    longer are therefore the better ones, and a reward learned from them may well believe in length, which
    beyond n dishes and two manners only costs.
    """
    every = [dish for dishes in DISHES.values() for dish in dishes]
    replies = []
    for prompt in prompts:
        name, number, quality = read_wish(prompt)
        right = DISHES[quality]
        wrong = [dish for dish in every if dish not in right]
        care = rng.random()
        missing, surplus = rng.binomial(3, 0.6 * (1.0 - care)), rng.binomial(1, 0.08)
        picks = rng.random((max(1, number - missing + surplus), 2))  # right or wrong? and then which one?
        dishes = [
            among[int(which * len(among))]
            for fit, which in picks
            for among in [right if fit < 0.4 + 0.3 * care else wrong]
        ]
        polite, misheard = 0.2 + 0.4 * care, 0.1
        greet, close, mishears, called = rng.random(4)
        greeted = NAMES[int(called * len(NAMES))] if mishears < misheard else name
        reply = write_reply(
            greet=greeted if greet < polite else None, dishes=dishes, close=bool(close < polite)
        )
        replies.append(reply)
    return replies


def write_world(
    directory: str | os.PathLike[str],
    *,
    seed: int,
    num_demonstrations: int = 4000,
    num_pairs: int = 6000,
    num_validation: int = 500,
    form: Form = "utility",
) -> World:
    """Writes a world as the JSON Lines files that a user would bring.

    `sft` and `sft_validation` hold demonstrations, `pairs` and `pairs_validation` two demonstrations each,
    `chosen` drawn from the gold preference; `prompts` and `heldout` are all prompts of their part. The
    prompts of the validation files are in no other file.

    Args:
      directory: where; made if it is not there. Files of the same names are replaced.
      seed: of the split, the demonstrations and the labels. Files are a function of it, byte for byte,
        and each is the same whatever the sizes of the others.
      num_demonstrations, num_pairs: rows of `sft.jsonl` and of `pairs.jsonl`.
      num_validation: rows of either validation file.
      form: of the gold preference that labels the pairs.

    Returns: the paths.
    Raises: `InputError` for a negative seed or a size below 1.
    """
    sizes = {
        "num_demonstrations": num_demonstrations,
        "num_pairs": num_pairs,
        "num_validation": num_validation,
    }
    require(seed >= 0, "seed", str(seed), "a whole number, 0 or more, is expected", "Choose another")
    for name, size in sizes.items():
        require(size >= 1, name, str(size), "1 or more is expected", "Ask for some rows")
    split = split_prompts(seed)

    def rng(stream: int) -> np.random.Generator:
        return np.random.default_rng([seed, stream])

    files = {
        "sft": _demonstration_rows(split.train, num_demonstrations, rng(0)),
        "sft_validation": _demonstration_rows(split.validation, num_validation, rng(1)),
        "pairs": _pair_rows(split.train, num_pairs, rng(2), form),
        "pairs_validation": _pair_rows(split.validation, num_validation, rng(3), form),
        "prompts": [{"prompt": prompt} for prompt in split.train],
        "heldout": [{"prompt": prompt} for prompt in split.heldout],
    }
    paths = {name: Path(directory) / f"{name}.jsonl" for name in files}
    world = World(**paths, manifest=Path(directory) / "world.json")
    with _in_whole(directory, last=world.manifest.name) as scratch:
        for name, rows in files.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (scratch / paths[name].name).write_text(lines, encoding="utf-8", newline="\n")
        manifest = {"world": "menu", "seed": seed, **sizes, "form": form}
        (scratch / world.manifest.name).write_text(json.dumps(manifest, indent=1) + "\n", newline="\n")
    return world


def train_tokenizer(
    directory: str | os.PathLike[str], texts: Iterable[str], *, vocab_size: int = 320
) -> Path:
    """Trains a byte-level BPE tokeniser and writes it for `transformers.AutoTokenizer.from_pretrained`.

    Its alphabet is the bytes of the texts (others become "<unk>"), so that a few hundred tokens hold every
    word of the menu whole, its space in front. "</s>" ends a completion, "<pad>" fills. A prompt ends with
    a mark and a completion starts with a space, where the pre-tokeniser always splits.

    Args:
      directory: where; made if it is not there.
      texts: prompts and completions, each on its own.
      vocab_size: tokens at most, the three special ones included.

    Returns: the directory. The same texts give the same bytes.
    """
    # Only here: the other files need numpy alone.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = quiet_transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    with _in_whole(directory, last="tokenizer_config.json") as scratch:
        fast.save_pretrained(scratch)
    return Path(directory)


def _in_turn(prompts: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    """As many prompts, each as often as any other, in random order."""
    return [prompts[i] for i in rng.permutation(np.arange(number) % len(prompts))]


def _demonstration_rows(
    prompts: Sequence[str], number: int, rng: np.random.Generator
) -> list[dict[str, str]]:
    asked = _in_turn(prompts, number, rng)
    replies = draw_demonstrations(asked, rng)
    return [{"prompt": prompt, "completion": reply} for prompt, reply in zip(asked, replies, strict=True)]


def _pair_rows(
    prompts: Sequence[str], number: int, rng: np.random.Generator, form: Form
) -> list[dict[str, str]]:
    asked = _in_turn(prompts, number, rng)
    firsts, seconds = draw_demonstrations(asked, rng), draw_demonstrations(asked, rng)
    for row, prompt in enumerate(asked):
        while firsts[row] == seconds[row]:
            firsts[row], seconds[row] = draw_demonstrations([prompt, prompt], rng)
    first_wins = rng.random(number) < gold_preference(asked, firsts, seconds, form=form)
    return [
        {"prompt": prompt, "chosen": first if win else second, "rejected": second if win else first}
        for prompt, first, second, win in zip(asked, firsts, seconds, first_wins, strict=True)
    ]


@contextmanager
def _in_whole(directory: str | os.PathLike[str], *, last: str) -> Iterator[Path]:
    """A scratch directory; its files move into `directory` once all are written, `last` after the others."""
    home = Path(directory)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".partial-") as scratch:
        yield Path(scratch)
        written = sorted(os.listdir(scratch), key=lambda name: (name == last, name))
        # The one that vouches for the others must not vouch for a mixture of old and new.
        (home / last).unlink(missing_ok=True)
        for name in written:
            os.replace(Path(scratch) / name, home / name)
