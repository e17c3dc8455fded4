"""The menu: its gold preference is exact, its optimum cannot be beaten, its files are whole."""

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import jsonl, menu, records

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
    prompts = menu.split_prompts(0).train
    asked = [prompts[i] for i in rng.integers(len(prompts), size=number)]
    return asked, *(menu.draw_demonstrations(asked, rng) for _ in range(repeat))


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
        menu.draw_demonstrations([prompt] * 40, rng),
        [classes[i] for i in rng.integers(len(classes), size=7)],
        ["", " Enjoy!", "zzz" * 50, " ham" * 30],
    ]
    rivals = [*random_replies(prompt, 500, seed=5), *menu.draw_demonstrations([prompt] * 100, rng)]
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


def test_demonstrations_are_mediocre_and_labels_noisy():
    prompts, replies, others = demonstrations(20_000, seed=6, repeat=2)
    utilities, rival = menu.gold_utility(prompts, replies), menu.gold_utility(prompts, others)
    assert 1.2 < utilities.mean() < 1.45  # of 5
    assert 0.005 < (utilities == 5).mean() < 0.05  # the best is in reach of a sampler, and rare
    replies_of = {prompt: menu.best_utility(prompt)[1] for prompt in set(prompts)}
    best = [replies_of[prompt] for prompt in prompts]
    assert 0.92 < menu.gold_preference(prompts, best, replies).mean() < 0.96
    # How often a label agrees with the better utility, where one is better.
    wins = menu.gold_preference(prompts, replies, others)
    assert 0.78 < np.maximum(wins, 1 - wins)[utilities != rival].mean() < 0.84


def test_length_is_a_tempting_reward_and_a_wrong_one():
    prompts, replies, others = demonstrations(20_000, seed=7, repeat=2)
    longer = menu.menu_criteria(prompts, replies).length - menu.menu_criteria(prompts, others).length
    better = menu.gold_utility(prompts, replies) - menu.gold_utility(prompts, others)
    assert np.corrcoef(longer, better)[0, 1] > 0.33
    # Of two demonstrations, the longer one is the one preferred.
    wins = menu.gold_preference(prompts, replies, others)
    assert np.where(longer > 0, wins, 1 - wins)[longer != 0].mean() > 0.6

    # Past what was asked for, every word costs, whichever it is, down to the floor.
    for number, word in itertools.product(menu.NUMBERS, ("plum", "melon", "lime", "Hello", "zzz")):
        prompt = f"Serve Ada {number} sweet dishes."
        name, asked, quality = menu.read_wish(prompt)
        lists = [[*menu.DISHES[quality][:asked], *[word] * extra] for extra in range(20)]
        rambling = [menu.write_reply(greet=name, dishes=dishes, close=True) for dishes in lists]
        utilities = menu.gold_utility([prompt] * 20, rambling)
        assert (np.diff(utilities[:17]) == -0.5).all()
        assert (utilities[16:] == -3).all()


def test_the_split_keeps_wishes_apart_and_every_word_known():
    for seed in range(3):
        split = menu.split_prompts(seed)
        wishes = [{menu.read_wish(prompt) for prompt in prompts} for prompts in split]
        assert [len(part) for part in wishes] == [203, 28, 57]
        assert [len(prompts) for prompts in split] == [4 * len(part) for part in wishes]
        assert len(set.union(*wishes)) == 288
        for column, values in zip(
            zip(*wishes[0], strict=True), (menu.NAMES, menu.NUMBERS, menu.DISHES), strict=True
        ):
            assert set(column) == set(values)  # whatever is held out is new in combination only
    assert menu.split_prompts(0) == menu.split_prompts(0) != menu.split_prompts(1)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


SMALL = {"num_demonstrations": 300, "num_pairs": 900, "num_validation": 50}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return menu.write_world(tmp_path_factory.mktemp("world"), seed=3, **SMALL)


def test_files_are_what_a_user_would_bring(world):
    split = menu.split_prompts(3)
    kinds = {
        "sft": (records.PROMPT_COMPLETION, 300, split.train),
        "sft_validation": (records.PROMPT_COMPLETION, 50, split.validation),
        "pairs": (records.PREFERENCE, 900, split.train),
        "pairs_validation": (records.PREFERENCE, 50, split.validation),
        "prompts": (records.PROMPT_ONLY, 812, split.train),
        "heldout": (records.PROMPT_ONLY, 228, split.heldout),
    }
    for name, (kind, rows, prompts) in kinds.items():
        found = jsonl.read_jsonl(getattr(world, name), kind)  # refuses what is empty or a pair of one text
        assert len(found.rows) == rows
        assert {row["prompt"] for row in found.rows} <= set(prompts)
    assert len({row["prompt"] for row in read(world.pairs)}) == 812  # all of them, each as often
    assert json.loads(world.manifest.read_text()) == {"world": "menu", "seed": 3, **SMALL, "form": "utility"}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_drawn_from_the_gold_preference(form, tmp_path):
    rows = read(
        menu.write_world(
            tmp_path, seed=5, num_pairs=4000, num_demonstrations=1, num_validation=1, form=form
        ).pairs
    )
    columns = ([row[name] for row in rows] for name in ("prompt", "chosen", "rejected"))
    p = menu.gold_preference(*columns, form=form)
    # A pair of margin d = 2q - 1 is labelled d with probability (1 + d)/2, else -d: E[label] = d² = label².
    margin = 2 * p - 1
    assert (margin - margin**2).mean() == pytest.approx(
        0, abs=4 * (margin - margin**2).std() / len(rows) ** 0.5
    )
    assert margin.mean() > 0.15


def test_a_seed_is_its_bytes(world, tmp_path):
    menu.write_world(tmp_path / "again", seed=3, **SMALL)
    assert contents(tmp_path / "again") == contents(world.sft.parent)
    more = menu.write_world(tmp_path / "more", seed=3, **{**SMALL, "num_demonstrations": 350})
    assert more.pairs.read_bytes() == world.pairs.read_bytes()
    other = menu.write_world(tmp_path / "other", seed=4, **SMALL)
    for name in ("sft", "sft_validation", "pairs", "pairs_validation", "prompts", "heldout"):
        assert getattr(other, name).read_bytes() != getattr(world, name).read_bytes()


def test_a_write_that_fails_leaves_no_half_world(world, tmp_path, monkeypatch):
    menu.write_world(tmp_path, seed=3, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(menu.json, "dumps", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            menu.write_world(tmp_path, seed=4, **SMALL)
    assert contents(tmp_path) == contents(world.sft.parent)  # nothing was touched
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]

    real, moved = os.replace, []

    def replace(source, target):
        if len(moved) == 3:
            raise OSError("no space left on device")
        moved.append(real(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(menu.os, "replace", replace)
        with pytest.raises(OSError, match="no space"):
            menu.write_world(tmp_path, seed=4, **SMALL)
    assert not (tmp_path / "world.json").exists()  # a mixture, and nothing says that it is a world
    menu.write_world(tmp_path, seed=3, **SMALL)
    assert contents(tmp_path) == contents(world.sft.parent)


@pytest.fixture(scope="module")
def tokenizer(world):
    import transformers

    texts = [
        row[name] for row in read(world.sft) + read(world.sft_validation) for name in ("prompt", "completion")
    ]
    directory = menu.train_tokenizer(world.sft.parent / "tokenizer", texts)
    return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)


def test_the_tokenizer_knows_every_word_and_loses_nothing(tokenizer):
    assert len(tokenizer) <= 320
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    words = [
        *itertools.chain(*menu.DISHES.values()),
        *menu.DISHES,
        *menu.NAMES,
        *map(str, menu.NUMBERS),
        "Hello",
        "Enjoy",
    ]
    assert [word for word in words if len(tokenizer(f" {word}").input_ids) != 1] == []

    prompts, replies = demonstrations(2000, seed=8)
    replies[:100] = [menu.best_utility(prompt)[1] for prompt in prompts[:100]]
    for prompt, reply in zip(prompts, replies, strict=True):
        front, back = tokenizer(prompt).input_ids, tokenizer(reply).input_ids
        assert tokenizer(prompt + reply).input_ids == front + back  # the boundary is a token boundary
        assert tokenizer.decode(front + back) == prompt + reply
        assert tokenizer.decode([*back, tokenizer.eos_token_id], skip_special_tokens=True) == reply
        assert tokenizer.unk_token_id not in front + back
        assert len(front) <= 10
        assert len(back) < 24


def test_another_process_writes_the_same_bytes(world, tokenizer, tmp_path):
    script = f"""
import json
from prefjax.data import menu
world = menu.write_world({str(tmp_path)!r}, seed=3, **{SMALL!r})
rows = [json.loads(line) for path in (world.sft, world.sft_validation) for line in open(path)]
texts = [row[name] for row in rows for name in ("prompt", "completion")]
menu.train_tokenizer(world.sft.parent / "tokenizer", texts)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    assert contents(tmp_path) == contents(world.sft.parent)
    assert contents(tmp_path / "tokenizer") == contents(world.sft.parent / "tokenizer")


def test_what_is_refused(tmp_path):
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
    with pytest.raises(InputError, match="num_pairs"):
        menu.write_world(tmp_path, seed=0, num_pairs=0)
    with pytest.raises(InputError, match="seed"):
        menu.write_world(tmp_path, seed=-1)
    assert not list(tmp_path.iterdir())
