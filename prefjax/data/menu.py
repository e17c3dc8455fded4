"""The menu: a small world of text whose gold preference, optimum and best responses are exact.

A guest asks for n dishes of one quality, and a completion is a short reply that lists dishes:

    "Guest Ada asks for 3 sweet dishes."  →  " Hello Ada, plum, honey, fig. Enjoy!"

A word of a reply is one of four things: served (one of n distinct dishes of the quality), part of the
greeting by the right name that opens it, the closing that ends it, or a mistake: a wrong dish, a repeat,
a dish too many, anything else. So length = served + mistakes + 2·greeted + closed, for every text.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prefjax.checks import require

Form = Literal["utility", "majority"]

DISHES = {
    "sweet": ("plum", "honey", "fig", "date", "pear", "cake", "jam", "melon"),
    "sour": ("lime", "lemon", "yuzu", "curd", "kefir", "kraut", "sumac", "pickle"),
    "spicy": ("curry", "chili", "salsa", "wasabi", "laksa", "tikka", "sambal", "mole"),
    "salty": ("ham", "feta", "olive", "caper", "miso", "nori", "chips", "soy"),
    "fresh": ("mint", "kale", "salad", "cress", "basil", "dill", "chard", "fennel"),
    "smoky": ("bacon", "eel", "trout", "ribs", "gouda", "kipper", "lox", "pork"),
}
NAMES = ("Ada", "Ben", "Dan", "Eva", "Gus", "Ida", "Kim", "Leo", "Mia", "Noa", "Tom", "Zoe")
NUMBERS = (2, 3, 4, 5)
# No template starts with a name, so that a name is the same token in a prompt and in a reply.
TEMPLATES = (
    "Guest {name} asks for {number} {quality} dishes.",
    "Serve {name} {number} {quality} dishes.",
    "Bring {number} {quality} dishes for {name}.",
    "Table of {name}, {number} dishes, all {quality}.",
)
HELLO, ENJOY = "Hello", "Enjoy"

# The gold utility: what a whole list, a mistake and either of the two manners is worth, in nats.
LIST, MISTAKE, MANNER = 4.0, 0.5, 0.5
MOST_MISTAKES = 16  # More count as this many: ruin has a finite price. -8 is the floor, 5 the best.
TEMPERATURES = np.array([1.0, 0.25, 0.5])  # of the critics: completeness, brevity (in words), manners

# A word runs up to a space or a mark, and takes one of each with it; a further one is a word of its own.
_WORDS = re.compile(r"[^\s,.!]+|(?<![^\s,.!])[,.!]|(?<=\s)\s")


class Wish(NamedTuple):
    """What a prompt asks for."""

    name: str
    number: int
    quality: str


class Criteria(NamedTuple):
    """What the gold preference sees of each reply: whole numbers."""

    asked: Int[np.ndarray, " N"]  # n, of the prompt
    served: Int[np.ndarray, " N"]  # r: distinct dishes of the quality, n at most
    mistakes: Int[np.ndarray, " N"]
    manners: Int[np.ndarray, " N"]  # m: greeting and closing, 0 to 2
    length: Int[np.ndarray, " N"]  # l, in words


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


@lru_cache(maxsize=4096)
def read_wish(prompt: str) -> Wish:
    """The name, the number and the quality in a prompt; `InputError` unless each is there once."""
    words = _WORDS.findall(prompt)
    names = [word for word in words if word in NAMES]
    numbers = [int(word) for word in words if word in map(str, NUMBERS)]
    qualities = [word for word in words if word in DISHES]
    require(
        len(names) == len(numbers) == len(qualities) == 1,
        "the menu",
        f"the prompt {prompt[:80]!r}",
        f"one name of {'/'.join(NAMES)}, one of {NUMBERS}, one of {'/'.join(DISHES)} is expected",
        "Take prompts from the files of `write_world`; the gold preference of the menu knows no others",
    )
    return Wish(names[0], numbers[0], qualities[0])


def write_reply(*, greet: str | None, dishes: Sequence[str], close: bool) -> str:
    """The reply in its usual form; " Hello Ada, plum, fig. Enjoy!" has all three parts, "" has none."""
    parts = [f" {HELLO} {greet},"] if greet else []
    if dishes:
        parts.append(f" {', '.join(dishes)}.")
    return "".join([*parts, f" {ENJOY}!"] if close else parts)


def menu_criteria(prompts: Sequence[str], completions: Sequence[str]) -> Criteria:
    """Reads any texts at all as replies.

    Args:
      prompts: one a completion, of the menu.
      completions: any text: words are told apart by spaces, commas, full stops and exclamation marks.

    Returns: the criteria of each, exact. served + mistakes ≤ length ≤ served + mistakes + 3.
    Raises: `InputError` for a prompt that is not of the menu, or where the numbers of texts differ.
    """
    _same_number(prompts, completions)
    rows = np.empty((len(completions), 5), np.int64)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        name, asked, quality = read_wish(prompt)
        words = _WORDS.findall(completion)
        greeted, closed = words[:2] == [HELLO, name], words[-1:] == [ENJOY]
        listed = words[2 * greeted : len(words) - closed]
        served = min(asked, len(set(listed).intersection(DISHES[quality])))
        rows[row] = asked, served, len(listed) - served, greeted + closed, len(words)
    return Criteria(*rows.T)


def gold_utility(prompts: Sequence[str], completions: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The utility behind the transitive preference.

        u = 4·r/n - ½·min(mistakes, 16) + ½·m

    Args:
      prompts, completions: as in `menu_criteria`.

    Returns: u in nats of preference, from -8 to 5; 0 for an empty reply.
    Raises: as `menu_criteria`.
    """
    complete, _, manners = _critics(prompts, completions).T
    return complete + MANNER * manners


def gold_preference(
    prompts: Sequence[str], completions: Sequence[str], others: Sequence[str], *, form: Form = "utility"
) -> Float[np.ndarray, " N"]:
    """The probability that the first reply is preferred, row by row.

        "utility":   P(y ≻ y') = σ(u - u')
        "majority":  three critics vote independently, each for y with probability σ((c - c') / T), and
                     two votes decide; c: 4·r/n - ½·min(mistakes, 16), minus the length, the manners

    The first is transitive. The second is not: a complete reply may beat a short one, which beats a
    polite one, which beats the complete one (Condorcet).

    Args:
      prompts: one a row.
      completions, others: the two replies of each row, y and y'.
      form: which of the two.

    Returns: P, with P(y ≻ y') + P(y' ≻ y) = 1 and P(y ≻ y) = ½ to the last bit.
    Raises: as `menu_criteria`.
    """
    _same_number(prompts, others)
    return (1.0 + _margin(_critics(prompts, completions) - _critics(prompts, others), form)) / 2.0


def reply_classes(prompt: str) -> list[str]:
    """One reply of each kind that can be best: r = 0 … n, greeting or not, closing or not, no mistake.

    The gold preferences see the criteria alone, and never gain by a mistake: it is one more word, and
    helps with neither the list nor the manners. So nothing beats the best of these 4(n + 1).
    """
    name, number, quality = read_wish(prompt)
    return [
        write_reply(greet=greet, dishes=DISHES[quality][:served], close=close)
        for greet in (None, name)
        for close in (False, True)
        for served in range(number + 1)
    ]


def best_utility(prompt: str) -> tuple[float, str]:
    """max over all texts of the gold utility, and a reply that has it."""
    replies = reply_classes(prompt)
    utilities = gold_utility([prompt] * len(replies), replies)
    return float(utilities.max()), replies[int(utilities.argmax())]


def best_response(prompt: str, others: Sequence[str], *, form: Form = "utility") -> tuple[float, str]:
    """The best reply against a sample of replies.

        max over all texts y of  1/K Σₖ P(y ≻ y'ₖ)

    Args:
      prompt: one prompt of the menu.
      others: y'ₖ, K ≥ 1 replies to that prompt, such as samples of a policy.
      form: of the gold preference.

    Returns: the maximum, and a reply that attains it. Less ½, it is how far the sample can be exploited.
    Raises: `InputError` where there are no others.
    """
    require(len(others) > 0, "best_response", "no other replies", "one at least", "Sample some from a policy")
    replies = reply_classes(prompt)
    ours = _critics([prompt] * len(replies), replies)
    theirs = _critics([prompt] * len(others), others)
    values = (1.0 + _margin(ours[:, None] - theirs[None], form).mean(axis=1)) / 2.0
    return float(values.max()), replies[int(values.argmax())]


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
    # Only here: the gold preference needs numpy alone.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    with _in_whole(directory, last="tokenizer_config.json") as scratch:
        fast.save_pretrained(scratch)
    return Path(directory)


def _critics(prompts: Sequence[str], completions: Sequence[str]) -> Float[np.ndarray, "N 3"]:
    """Completeness, brevity, manners: more is better of each."""
    seen = menu_criteria(prompts, completions)
    complete = LIST * seen.served / seen.asked - MISTAKE * np.minimum(seen.mistakes, MOST_MISTAKES)
    return np.stack([complete, -seen.length, seen.manners], axis=-1)


def _margin(lead: Float[np.ndarray, "*batch 3"], form: Form) -> Float[np.ndarray, "*batch"]:
    """2P - 1 from the critics' differences. Odd in them, so that swapping the replies negates it."""
    if form == "utility":
        return np.tanh((lead[..., 0] + MANNER * lead[..., 2]) / 2.0)
    require(form == "majority", "form", repr(form), '"utility" or "majority" is expected', "Choose one")
    # Votes of ±1 with means vₖ: the sign of their sum is (v₁ + v₂ + v₃ - v₁v₂v₃)/2, an identity.
    votes = np.tanh(lead / (2.0 * TEMPERATURES))
    return (votes.sum(axis=-1) - votes.prod(axis=-1)) / 2.0


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


def _same_number(prompts: Sequence[str], texts: Sequence[str]) -> None:
    got = f"{len(prompts)} prompts and {len(texts)} completions"
    require(len(prompts) == len(texts), "the menu", got, "one prompt a completion", "Repeat the prompts")


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
