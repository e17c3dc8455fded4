"""`experiments.inspect_data`: what it shows is what is tokenised, cut and left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.inspect_data import Config, command_line, main
from prefjax.checks import InputError
from tests.data.chats import CHATML, TOOLS, assistant, chat_tokenizer, user
from tests.data.small import write_jsonl

ROOT = Path(__file__).parents[2]
PAIRS = [
    {"prompt": "the the the the the the the the", "chosen": " no", "rejected": " yes"},
    {"prompt": "the cat", "chosen": " yes", "rejected": " no no no no no no"},
    {"prompt": "é", "chosen": "中", "rejected": " no"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    chat_tokenizer(CHATML).save_pretrained(directory)
    return str(directory)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFJAX_CACHE", str(tmp_path / "cache"))


def test_pairs_line_by_line(model, tmp_path):
    data = write_jsonl(tmp_path / "pairs.jsonl", *PAIRS)
    said = main(Config(model=model, data=data, max_length=8, rows=1))
    lines = said.splitlines()
    assert lines[:2] == [f"{data}: preference rows", "completions end with '</s>' (id 2) in a text"]
    chosen = lines.index(f"{data}, line 2, chosen: 5 tokens, 3 before the completion")
    assert [line.split() for line in lines[chosen + 2 : chosen + 8]] == [
        ["0", "1", "prompt", "'<s>'"],
        ["1", "263", "prompt", "'the'"],
        ["2", "269", "prompt", "'", "cat'"],
        ["3", "261", "completion", "yes", "'", "yes'"],
        ["4", "2", "completion", "yes", "'</s>'"],
        ["0", "padding", "3", "times,", "up", "to", "8"],
    ]
    rejected = lines.index(f"{data}, line 2, rejected: 8 tokens, 3 before the completion, 2 more CUT")
    assert lines[rejected + 10].split() == ["CUT", "2", "from", "'", "no</s>'", "on"]
    assert "left out before line 2: lines 1" in lines
    counts = {" ".join(line.split()[:-1]): line.split()[-1] for line in lines[-12:]}
    assert counts["rows"] == "3"
    assert counts["kept"] == "2"
    assert counts["truncated"] == "1"
    assert counts["skipped: prompt fills max_length"] == "1"
    assert lines[-1].split()[-5:] == ["2", "2", "7", "7", "7"]  # completions of rejected, EOS included
    # A letter that is several tokens is shown as the vocabulary has its parts.
    assert "  ä" in main(Config(model=model, data=data, rows=3))


def test_only_the_ends_and_the_boundary_of_long_rows(model, tmp_path):
    row = {"prompt": "abc " * 60, "completion": "xyz" * 60}
    data = write_jsonl(tmp_path / "rows.jsonl", row)
    short, whole = (main(Config(model=model, data=data, tokens=tokens)) for tokens in (12, 0))
    assert 20 < len(short.splitlines()) < 40 < 400 < len(whole.splitlines())
    assert short.count("more") == 2
    boundary = next(line for line in whole.splitlines() if "completion yes" in line)
    assert boundary in short


def test_every_kind_by_its_columns(model, tmp_path):
    talk = [user("cat?"), assistant("yes")]
    for row, said in (
        ({"messages": talk}, "language_modeling rows, rendered by the chat template"),
        ({"text": "the cat"}, "text       yes      'the'"),
        ({"prompt": talk[:1], "completion": talk[1:], "label": False, "tools": TOOLS}, "label bad"),
        ({"prompt": "the", "completions": ["a", "no"]}, "completions 2: 4 tokens"),
        ({"prompt": "the", "completions": ["a", "b"], "labels": [True, False]}, "completion wrong    '\\n'"),
        ({"prompt": "the"}, "prompt: 2 tokens"),
    ):
        data = write_jsonl(tmp_path / "rows.jsonl", row)
        assert said in main(Config(model=model, data=data)), row
    data = write_jsonl(tmp_path / "talks.jsonl", {"messages": talk})
    said = main(Config(model=model, data=data, assistant_only=True)).splitlines()
    learned = [line for line in said if " yes " in line]
    assert "'<|im_end|>'" in learned[-1]
    assert len(learned) == 8


def test_several_sources_and_a_limit(model, tmp_path):
    one, two = (write_jsonl(tmp_path / name, *PAIRS) for name in ("a.jsonl", "b.jsonl"))
    said = main(Config(model=model, data=f"{one}=0.7,{two}=0.3", rows=0, limit=2))
    assert f"{one}: preference rows" in said
    assert f"{two}: preference rows" in said
    assert [line.split()[-1] for line in said.splitlines() if line.split()[:1] == ["rows"]] == ["2", "2"]


def test_errors_are_one_line(model, tmp_path, capsys):
    data = write_jsonl(tmp_path / "rows.jsonl", {"question": "the"})
    with pytest.raises(SystemExit):
        command_line(["--model", model, "--data", data])
    assert f"error: {data}: its columns look like no kind of record" in capsys.readouterr().err
    crossing = write_jsonl(tmp_path / "crossing.jsonl", {"prompt": "the ", "completion": "no"})
    with pytest.raises(InputError, match="line 1: a token reaches across"):
        main(Config(model=model, data=crossing))
    assert "2 before the completion" in main(Config(model=model, data=crossing, boundary="joined"))


def test_into_a_pipe_that_closes(model, tmp_path):
    data = write_jsonl(
        tmp_path / "pairs.jsonl", *({**row, "n": json.dumps(i)} for i, row in enumerate(PAIRS * 60))
    )
    command = f'"{sys.executable}" -m experiments.inspect_data --model "{model}" --data "{data}" --rows 180 | head -1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{data}: preference rows\n")
    assert "Error" not in done.stderr


def test_an_algorithm_reads_its_own_columns(model, tmp_path):
    data = write_jsonl(tmp_path / "pairs.jsonl", *PAIRS)
    for algorithm, said in (
        ("dpo", f"{data}: preference rows"),
        ("kto", f"{data}: unpaired rows"),
        ("nash_md", f"{data}: prompt_only rows"),
    ):
        assert main(Config(model=model, data=data, algorithm=algorithm)).startswith(said)
    texts = write_jsonl(tmp_path / "texts.jsonl", {"text": "the cat"})
    assert "language_modeling rows" in main(Config(model=model, data=texts, algorithm="sft"))
