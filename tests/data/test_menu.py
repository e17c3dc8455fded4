"""The menu: its gold preference is exact, and its optimum cannot be beaten."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import menu, menu_world

SWEET = "Guest Ada asks for 3 sweet dishes."
FORMS = ("utility", "majority")
RANDOM_WORDS = [dish for dishes in menu.DISHES.values() for dish in dishes] + [
    "Hello",
    "Ada",
    "Ben",
    "Enjoy",
    "zzz",
]


def demonstrations(number, *, seed, repeat=1):
    """Prompts, each with `repeat` independent replies."""
    rng = np.random.default_rng(seed)
    prompts = menu_world.split_prompts(0).train
    asked = [prompts[i] for i in rng.integers(len(prompts), size=number)]
    return asked, *(menu_world.draw_demonstrations(asked, rng) for _ in range(repeat))


def random_replies(prompt, number, seed):
    """Short texts of any words, many of them sensible."""
    rng, wish = random.Random(seed), menu.read_wish(prompt)
    replies = []
    for _ in range(number):
        words = rng.choices(RANDOM_WORDS, k=rng.randrange(4))
        words += rng.sample(menu.DISHES[wish.quality], rng.randrange(7))
        rng.shuffle(words)
        words = ["Hello", wish.name] * rng.randrange(2) + words + ["Enjoy"] * rng.randrange(2)
        replies.append("".join(rng.choice((" ", " ", " ", ", ", "  ")) + word for word in words))
    return replies


# served, mistakes, manners, length
@pytest.mark.parametrize(
    ("reply", "expected"),
    {
        "": (0, 0, 0, 0),
        " Hello Ada, plum, honey, fig. Enjoy!": (3, 0, 2, 6),
        "plum,honey.fig": (3, 0, 0, 3),  # marks and the space in front are a matter of taste
        " plum, plum, honey.": (2, 1, 0, 3),  # a repeat
        " plum, honey, fig, date.": (3, 1, 0, 4),  # one too many
        " plum, lime, spam.": (1, 2, 0, 3),  # a wrong quality, no dish at all
        " Plum, HONEY, figs, fi g.": (0, 5, 0, 5),  # letter by letter
        " Hello Ben, plum.": (1, 2, 0, 3),  # the wrong guest
        " Hello Ada, Hello Ada, plum. Enjoy! Enjoy!": (1, 3, 2, 7),  # manners are had once
        " plum, Hello Ada. Enjoy! fig": (2, 3, 0, 5),  # and in their places
        " Hello, Ada. Enjoy": (0, 0, 2, 3),
        " Hello": (0, 1, 0, 1),
        " Enjoy": (0, 0, 1, 1),
        "!!!": (0, 3, 0, 3),  # marks without a word are words
        " plum,, honey": (2, 1, 0, 3),
        "  plum   honey": (2, 3, 0, 5),  # so are spaces beyond the first
        " plum\u200b, plum\x00honey, 梅, </s>": (0, 4, 0, 4),
        " " + " ".join(dish for dishes in menu.DISHES.values() for dish in dishes): (3, 45, 0, 48),
        " plum" * 100_000: (1, 99_999, 0, 100_000),
        "x" * 100_000: (0, 1, 0, 1),
    }.items(),
    ids=lambda value: repr(value)[:40] if isinstance(value, str) else "",
)
def test_every_text_has_its_criteria(reply, expected):
    asked, *criteria = (int(column[0]) for column in menu.menu_criteria([SWEET], [reply]))
    assert asked == 3
    assert tuple(criteria) == expected


@given(
    st.lists(st.sampled_from([*RANDOM_WORDS, " ", " ", ",", ".", "!", "\n", "é", "\ud800", "a"]), max_size=40)
)
def test_every_word_is_served_mannerly_or_a_mistake(pieces):
    for reply in ("".join(pieces), " ".join(pieces)):
        seen = menu.menu_criteria([SWEET], [reply])
        courtesy = seen.length - seen.served - seen.mistakes
        assert 0 <= seen.served <= 3
        assert seen.mistakes >= 0
        # A greeting is two words, a closing one.
        assert (int(seen.manners[0]), int(courtesy[0])) in {(0, 0), (1, 1), (1, 2), (2, 3)}
        utility = menu.gold_utility([SWEET], [reply])[0]
        assert -8 <= utility <= 5
        assert (utility == 5) == ([int(column[0]) for column in seen] == [3, 3, 0, 2, 6])


def test_preferences_are_the_documented_probabilities():
    prompts, replies, others = demonstrations(2000, seed=1, repeat=2)
    n, r, k, m, words = menu.menu_criteria(prompts, replies)
    _, r2, k2, m2, words2 = menu.menu_criteria(prompts, others)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    lead = 4 * (r - r2) / n - (np.minimum(k, 16) - np.minimum(k2, 16)) / 2
    utility = menu.gold_preference(prompts, replies, others, form="utility")
    np.testing.assert_allclose(utility, sigmoid(lead + (m - m2) / 2), atol=1e-14)
    difference = menu.gold_utility(prompts, replies) - menu.gold_utility(prompts, others)
    np.testing.assert_allclose(utility, sigmoid(difference), atol=1e-14)

    # The oracle of the majority: the eight ways that three critics can vote.
    critics = sigmoid(lead / 1.0), sigmoid((words2 - words) / 0.25), sigmoid((m - m2) / 0.5)
    majority = sum(
        np.prod([p if vote else 1 - p for p, vote in zip(critics, votes, strict=True)], axis=0)
        for votes in itertools.product((0, 1), repeat=3)
        if sum(votes) >= 2
    )
    np.testing.assert_allclose(
        menu.gold_preference(prompts, replies, others, form="majority"), majority, atol=1e-14
    )


@pytest.mark.parametrize("form", FORMS)
def test_swapping_gives_the_complement_to_the_last_bit(form):
    prompts, replies, others = demonstrations(5000, seed=2, repeat=2)
    others[::2] = random_replies(SWEET, len(others[::2]), seed=2)
    forth = menu.gold_preference(prompts, replies, others, form=form)
    back = menu.gold_preference(prompts, others, replies, form=form)
    assert (forth + back == 1).all()
    assert (menu.gold_preference(prompts, replies, replies, form=form) == 0.5).all()
    # One row or many: the same number.
    alone = [
        menu.gold_preference(prompts[i : i + 1], [replies[i]], [others[i]], form=form)[0] for i in range(9)
    ]
    assert (forth[:9] == alone).all()


def test_the_majority_is_intransitive_and_the_utility_is_not():
    prompt = "Serve Ada 4 sweet dishes."
    complete, short, polite = " plum, honey, fig, date. Enjoy!", " plum, honey.", " Hello Ada, plum. Enjoy!"
    rounds = [complete, short, polite], [short, polite, complete]
    majority = menu.gold_preference([prompt] * 3, *rounds, form="majority")
    assert (majority > 0.55).all(), majority
    assert (menu.gold_preference([prompt] * 3, *rounds, form="utility") < 0.5).any()

    # Such triples are met by chance: 7 % of triples of demonstrations (impartial voters: 8.8 %).
    prompts, *replies = demonstrations(20_000, seed=3, repeat=3)
    cycles = {}
    for form in FORMS:
        pairs = [(replies[i], replies[(i + 1) % 3]) for i in range(3)]
        signs = np.sign([menu.gold_preference(prompts, a, b, form=form) - 0.5 for a, b in pairs])
        cycles[form] = (abs(signs.sum(axis=0)) == 3).mean()
    assert cycles["utility"] == 0
    assert 0.06 < cycles["majority"] < 0.09

    # Nor is there a reply that no other beats.
    for number in menu.NUMBERS:
        prompt = f"Serve Ada {number} sweet dishes."
        for reply in menu.reply_classes(prompt):
            assert menu.best_response(prompt, [reply], form="majority")[0] > 0.54


@pytest.mark.parametrize("number", menu.NUMBERS)
def test_the_best_utility_is_the_best_of_all_classes(number):
    prompt = f"Table of Zoe, {number} dishes, all smoky."
    classes = itertools.product(range(number + 1), range(40), (0, 1), (0, 1))
    highest = max(4 * r / number - min(k, 16) / 2 + (g + c) / 2 for r, k, g, c in classes)
    value, reply = menu.best_utility(prompt)
    assert value == highest == 5
    assert menu.gold_utility([prompt], [reply])[0] == value
    assert menu.gold_utility([prompt] * 3000, random_replies(prompt, 3000, seed=4)).max() <= value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", menu.NUMBERS)
def test_no_text_beats_the_best_response(number, form):
    prompt = f"Bring {number} salty dishes for Gus."
    rng = np.random.default_rng(number)
    classes = menu.reply_classes(prompt)
    samples = [
        menu_world.draw_demonstrations([prompt] * 40, rng),
        [classes[i] for i in rng.integers(len(classes), size=7)],
        ["", " Enjoy!", "zzz" * 50, " ham" * 30],
    ]
    rivals = [*random_replies(prompt, 500, seed=5), *menu_world.draw_demonstrations([prompt] * 100, rng)]
    rivals += [text + mistake for text in classes for mistake in (" lime", " ham", " lime ham zzz")]
    for others in samples:
        value, reply = menu.best_response(prompt, others, form=form)
        crossed = list(itertools.product([reply, *classes, *rivals], others))
        mine, theirs = zip(*crossed, strict=True)
        wins = menu.gold_preference([prompt] * len(crossed), mine, theirs, form=form)
        means = wins.reshape(-1, len(others)).mean(axis=1)
        assert means[0] == pytest.approx(value, abs=1e-12)
        assert means.max() <= value + 1e-12
        assert value >= 0.5


def test_what_is_refused():
    for prompt in (
        "",
        "Serve Ada 9 sweet dishes.",
        "Serve Ada and Ben 3 sweet dishes.",
        "Serve Ada 3 dishes.",
    ):
        with pytest.raises(InputError, match="the menu: the prompt"):
            menu.gold_utility([prompt], [" plum."])
    with pytest.raises(InputError, match="1 prompts and 2 completions"):
        menu.gold_preference([SWEET], [" plum."], [" plum.", " fig."])
    with pytest.raises(InputError, match="best_response"):
        menu.best_response(SWEET, [])
