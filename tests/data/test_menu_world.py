"""The files of the menu: mediocre and noisy as they should be, whole, and a function of their seed."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.data import jsonl, menu, menu_world, records
from tests.data.test_menu import FORMS, demonstrations


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
        split = menu_world.split_prompts(seed)
        wishes = [{menu.read_wish(prompt) for prompt in prompts} for prompts in split]
        assert [len(part) for part in wishes] == [203, 28, 57]
        assert [len(prompts) for prompts in split] == [4 * len(part) for part in wishes]
        assert len(set.union(*wishes)) == 288
        for column, values in zip(
            zip(*wishes[0], strict=True), (menu.NAMES, menu.NUMBERS, menu.DISHES), strict=True
        ):
            assert set(column) == set(values)  # whatever is held out is new in combination only
    assert menu_world.split_prompts(0) == menu_world.split_prompts(0) != menu_world.split_prompts(1)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


SMALL = {"num_demonstrations": 300, "num_pairs": 900, "num_validation": 50}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return menu_world.write_world(tmp_path_factory.mktemp("world"), seed=3, **SMALL)


def test_files_are_what_a_user_would_bring(world):
    split = menu_world.split_prompts(3)
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
        menu_world.write_world(
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
    menu_world.write_world(tmp_path / "again", seed=3, **SMALL)
    assert contents(tmp_path / "again") == contents(world.sft.parent)
    more = menu_world.write_world(tmp_path / "more", seed=3, **{**SMALL, "num_demonstrations": 350})
    assert more.pairs.read_bytes() == world.pairs.read_bytes()
    other = menu_world.write_world(tmp_path / "other", seed=4, **SMALL)
    for name in ("sft", "sft_validation", "pairs", "pairs_validation", "prompts", "heldout"):
        assert getattr(other, name).read_bytes() != getattr(world, name).read_bytes()


def test_a_write_that_fails_leaves_no_half_world(world, tmp_path, monkeypatch):
    menu_world.write_world(tmp_path, seed=3, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(menu_world.json, "dumps", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            menu_world.write_world(tmp_path, seed=4, **SMALL)
    assert contents(tmp_path) == contents(world.sft.parent)  # nothing was touched
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]

    real, moved = os.replace, []

    def replace(source, target):
        if len(moved) == 3:
            raise OSError("no space left on device")
        moved.append(real(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(menu_world.os, "replace", replace)
        with pytest.raises(OSError, match="no space"):
            menu_world.write_world(tmp_path, seed=4, **SMALL)
    assert not (tmp_path / "world.json").exists()  # a mixture, and nothing says that it is a world
    menu_world.write_world(tmp_path, seed=3, **SMALL)
    assert contents(tmp_path) == contents(world.sft.parent)


@pytest.fixture(scope="module")
def tokenizer(world):
    import transformers

    texts = [
        row[name] for row in read(world.sft) + read(world.sft_validation) for name in ("prompt", "completion")
    ]
    directory = menu_world.train_tokenizer(world.sft.parent / "tokenizer", texts)
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
from prefjax.data import menu_world
world = menu_world.write_world({str(tmp_path)!r}, seed=3, **{SMALL!r})
rows = [json.loads(line) for path in (world.sft, world.sft_validation) for line in open(path)]
texts = [row[name] for row in rows for name in ("prompt", "completion")]
menu_world.train_tokenizer(world.sft.parent / "tokenizer", texts)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True)
    assert contents(tmp_path) == contents(world.sft.parent)
    assert contents(tmp_path / "tokenizer") == contents(world.sft.parent / "tokenizer")


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="num_pairs"):
        menu_world.write_world(tmp_path, seed=0, num_pairs=0)
    with pytest.raises(InputError, match="seed"):
        menu_world.write_world(tmp_path, seed=-1)
    assert not list(tmp_path.iterdir())
