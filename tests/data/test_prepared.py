"""Prepared sets: file order, text as it was, made once, safe from crashes and races; no TensorFlow."""

import hashlib
import importlib.util
import json
import subprocess
import sys

import pytest

from prefjax.checks import InputError
from prefjax.data import PREFERENCE, PROMPT_ONLY, UNPAIRED, prepare, read_jsonl
from prefjax.data import prepared as prepared_module
from tests.data.small import write_jsonl
from tests.data.trl_records import ANSWER, CALL, THOUGHT, reply, said

TEXTS = ["plain", "é中😀", "\x00 nul", "line\nbreak\u2028", " \t", "</s>", "x" * 10_000, "\U0010ffff"]


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"prompt": f"{i} {TEXTS[i % 8]}", "chosen": "a" + TEXTS[i % 7], "rejected": "b"} for i in range(1100)
    ]
    return write_jsonl(tmp_path / "pairs.jsonl", *rows[:550], b"not JSON", *rows[550:])


def test_rows_come_back_as_they_were_in_file_order(pairs, tmp_path, capfd):
    read = read_jsonl(pairs, PREFERENCE, bad="skip")
    records = prepare(pairs, PREFERENCE, bad="skip", cache=tmp_path / "cache")
    assert list(records.rows) == read.rows
    assert (records.identity, records.skipped) == (read.identity, {"malformed JSON": 1})
    assert records.rows[-1] == records.rows[1099] == read.rows[-1]
    assert records.rows[2:4] == read.rows[2:4]
    assert records.rows[550]["line"] == 552
    with pytest.raises(IndexError):
        records.rows[1100]
    # Nothing is said, and TensorFlow is neither there nor needed.
    assert capfd.readouterr() == ("", "")
    assert importlib.util.find_spec("tensorflow") is None


def test_a_set_is_made_once_and_its_name_is_what_made_it(pairs, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = prepare(pairs, PREFERENCE, bad="skip", cache=cache)
    with monkeypatch.context() as patch:
        patch.delattr(prepared_module, "_write")  # what is not called cannot be missed
        again = prepare(pairs, PREFERENCE, bad="skip", cache=cache)
        assert list(again.rows) == list(first.rows)
    prepare(pairs, PROMPT_ONLY, bad="skip", cache=cache)
    with open(pairs, "ab") as file:
        file.write(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    assert prepare(pairs, PREFERENCE, bad="skip", cache=cache).identity.rows == 1101
    monkeypatch.setenv("PREFJAX_CACHE", str(cache))
    prepare(pairs, PREFERENCE, bad="skip")
    monkeypatch.setattr(prepared_module, "FORMAT", 3)
    prepare(pairs, PREFERENCE, bad="skip")
    assert len(list(cache.iterdir())) == 4


def test_conversations_and_extras_come_back_and_a_pair_is_two_unpaired_rows(tmp_path):
    extras = {
        "a": [1, 2.5, None, {"b": True}],
        "half": "\ud83d",
        "é": "中",
        "line": 7,
        "extras": {},
        "big": 10**30,
    }
    talk = {"prompt": said("Sky?"), "chosen": [CALL, ANSWER, THOUGHT], "rejected": reply("No.")}
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ({**talk, **extras}, talk)))
    cache = tmp_path / "cache"
    pairs = prepare(path, PREFERENCE, cache=cache)
    assert list(pairs.rows) == [{**talk, "extras": extras, "line": 1}, {**talk, "extras": {}, "line": 2}]
    assert pairs.identity == (hashlib.sha256(path.read_bytes()).hexdigest(), 2, "preference")
    unpaired = prepare(path, UNPAIRED, cache=cache)
    assert list(unpaired.rows) == read_jsonl(path, UNPAIRED).rows
    assert [(row["label"], row["line"]) for row in unpaired.rows] == [
        (True, 1),
        (False, 1),
        (True, 2),
        (False, 2),
    ]
    assert unpaired.identity.rows == 4


@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "manifest", "no manifest", "a file", "empty"])
def test_a_broken_set_is_made_again(pairs, tmp_path, harm):
    cache = tmp_path / "cache"
    whole = list(prepare(pairs, PREFERENCE, bad="skip", cache=cache).rows)
    (place,) = cache.iterdir()
    (data,) = place.rglob("*.array_record*")
    match harm:
        case "cut":
            data.write_bytes(data.read_bytes()[:-70_000])
        case "flip":
            content = bytearray(data.read_bytes())
            content[len(content) // 2] ^= 1
            data.write_bytes(content)
        case "remove":
            data.unlink()
        case "manifest":
            (place / "prefjax.json").write_text('{"identity": {')
        case "no manifest":
            (place / "prefjax.json").unlink()
        case "a file" | "empty":
            place.rename(tmp_path / "away")
            place.write_text("") if harm == "a file" else place.mkdir()
    assert list(prepare(pairs, PREFERENCE, bad="skip", cache=cache).rows) == whole
    assert list(cache.iterdir()) == [place]


def test_a_death_while_writing_leaves_no_set(pairs, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared_module, "_move", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(pairs, PREFERENCE, bad="skip", cache=cache)
    assert list(cache.iterdir()) == []
    assert prepare(pairs, PREFERENCE, bad="skip", cache=cache).identity.rows == 1100


def test_processes_that_race_all_get_the_rows(pairs, tmp_path):
    code = (
        "import hashlib, json, sys; from prefjax.data import PREFERENCE, prepare\n"
        "rows = prepare(sys.argv[1], PREFERENCE, bad='skip', cache=sys.argv[2]).rows\n"
        "print(hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", code, pairs, str(tmp_path / "cache")]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0] for process in racing}
    assert [process.returncode for process in racing] == [0, 0]
    assert len(said) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_faults_are_those_of_the_reader_and_leave_nothing(pairs, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match=r"pairs.jsonl, line 551: malformed JSON at column 1"):
        prepare(pairs, PREFERENCE, cache=cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(InputError, match="no row is left"):
        prepare(write_jsonl(tmp_path / "x", b"{"), PREFERENCE, bad="skip", cache=cache)
    with pytest.raises(InputError, match="no such file"):
        prepare(tmp_path / "y", PREFERENCE, cache=cache)


def test_a_cache_that_cannot_be_written(pairs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache .*file: it cannot be written .*set PREFJAX_CACHE"):
        prepare(pairs, PREFERENCE, bad="skip", cache=tmp_path / "file")


def test_a_file_that_changes_meanwhile(pairs, tmp_path, monkeypatch):
    write = prepared_module._write

    def slow_write(*args):
        write(*args)
        with open(pairs, "a") as file:
            file.write(json.dumps({}) + "\n")

    monkeypatch.setattr(prepared_module, "_write", slow_write)
    with pytest.raises(InputError, match=r"pairs.jsonl: it changed while it was read"):
        prepare(pairs, PREFERENCE, bad="skip", cache=tmp_path / "cache")
