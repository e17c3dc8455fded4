"""The menu: a small world of text whose gold preference, optimum and best responses are exact.

A guest asks for n dishes of one quality, and a completion is a short reply that lists dishes:

    "Guest Ada asks for 3 sweet dishes."  →  " Hello Ada, plum, honey, fig. Enjoy!"

A word of a reply is one of four things: served (one of n distinct dishes of the quality), part of the
greeting by the right name that opens it, the closing that ends it, or a mistake: a wrong dish, a repeat,
a dish too many, anything else. So length = served + mistakes + 2·greeted + closed, for every text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
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


def _same_number(prompts: Sequence[str], texts: Sequence[str]) -> None:
    got = f"{len(prompts)} prompts and {len(texts)} completions"
    require(len(prompts) == len(texts), "the menu", got, "one prompt a completion", "Repeat the prompts")
