"""Rows, good and bad: each fault is named, with the line it is on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY, read_jsonl
from prefjax.data.jsonl import check_readable
from prefjax.data.records import check_row, extract_prompt
from tests.data.small import write_jsonl

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}

MESSAGES = [{"role": "user", "content": "a"}]
HALF = b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}'
FOUND = 'no column "rejected"; the columns found are "prompt", "chosen", "x"'
NEEDS = '"rejected" is empty; a pair needs a prompt and two non-empty completions'
LATIN = "byte 13 of the line (0xe9, byte 61 of the file) is not UTF-8"

# What stands on line 2, the reason it is counted under, and what the message has to say.
FAULTS = {
    "a list": ([GOOD], "not an object", "the row is a list; a JSON object with text columns is needed"),
    "null": (None, "not an object", "the row is null"),
    "no rejected": ({"prompt": "p", "chosen": "a", "x": 1}, "missing column", FOUND),
    "no columns": ({}, "missing column", 'no column "chosen", "rejected"; the columns found are none'),
    "number": ({**GOOD, "chosen": 3}, "wrong type", '"chosen" is a number; a string is expected'),
    "boolean": ({**GOOD, "prompt": True}, "wrong type", '"prompt" is a boolean'),
    "null text": ({**GOOD, "rejected": None}, "wrong type", '"rejected" is null'),
    "strings": ({**GOOD, "rejected": ["b"]}, "wrong type", '"rejected" is a list'),
    "messages": ({**GOOD, "chosen": MESSAGES}, "conversational", "Apply the tokeniser's chat template first"),
    "empty": ({**GOOD, "rejected": ""}, "empty", NEEDS),
    "empty prompt": ({**GOOD, "prompt": ""}, "empty", '"prompt" is empty'),
    "equal": ({**GOOD, "rejected": "a"}, "rejected equals chosen", '"rejected" equals "chosen"'),
    "nothing shared": ({"chosen": "ab ", "rejected": "b"}, "no shared prompt", 'no column "prompt"'),
    "surrogate": (HALF, "not Unicode text", "the lone surrogate \\ud83d"),
    "cut off": (b'{"prompt": "p', "malformed JSON", "malformed JSON at column 12: Unterminated string"),
    "two objects": (b"{} {}", "malformed JSON", "malformed JSON at column 4: Extra data"),
    "brackets": (b"[" * 100_000, "malformed JSON", "RecursionError"),
    "digits": (b'{"prompt": ' + b"9" * 5000 + b"}", "malformed JSON", "cannot be read"),
    "blank": (b"  ", "blank line", "the line is blank"),
    "not UTF-8": (b'{"prompt": "\xe9"}', "not UTF-8", LATIN),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_error_with_file_and_line_or_counted(tmp_path, name):
    row, reason, said = FAULTS[name]
    path = write_jsonl(tmp_path / "pairs.jsonl", GOOD, row, GOOD)
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert said in str(error.value)

    read = read_jsonl(path, PREFERENCE, bad="skip")
    assert [row["line"] for row in read.rows] == [1, 3]
    assert read.skipped == {reason: 1}
    assert read.identity.rows == 2


def test_columns_of_each_kind_and_extra_columns_left_out(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"completion": "c", "prompt": "p", "id": [1, {"a": 2}]})
    assert read_jsonl(path, PROMPT_COMPLETION).rows == [{"prompt": "p", "completion": "c", "line": 1}]
    assert read_jsonl(path, PROMPT_ONLY).rows == [{"prompt": "p", "line": 1}]
    with pytest.raises(
        InputError, match='line 1: no column "chosen", "rejected"; the columns found are "completion"'
    ):
        read_jsonl(path, PREFERENCE)


def test_blank_lines_at_the_end_and_a_byte_order_mark_do_not_count(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "p\xc3\xa9"}\r\n{"prompt": "q"}\n\n  \n')
    read = read_jsonl(path, PROMPT_ONLY)
    assert [row["prompt"] for row in read.rows] == ["pé", "q"]
    assert read.skipped == {}
    # No newline at the end is fine too, and so is U+2028, which is no line's end in JSON.
    path.write_bytes('{"prompt": "a\u2028b"}'.encode())
    assert read_jsonl(path, PROMPT_ONLY).rows == [{"prompt": "a\u2028b", "line": 1}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty; preference rows are expected"),
        (b"\n \n", "the file is empty"),
        (
            "{}".encode("utf-16"),
            "line 1: the file starts with the byte order mark of UTF-16; UTF-8 is expected",
        ),
        (b"\xef\xbb\xbf\xff", "line 1: byte 1 of the line (0xff, byte 4 of the file) is not UTF-8"),
    ],
)
def test_files_without_rows(tmp_path, content, said):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_all_rows_skipped(tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", {}, b"{", {**GOOD, "rejected": "a"}, {})
    with pytest.raises(InputError) as error:
        read_jsonl(path, PREFERENCE, bad="skip")
    said = "all 4 were skipped (1 × malformed JSON, 2 × missing column, 1 × rejected equals chosen)"
    assert said in str(error.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(
        InputError, match=r"nowhere.jsonl: there is no such file; a JSON Lines file is expected\."
    ):
        read_jsonl(tmp_path / "nowhere.jsonl", PREFERENCE)
    with pytest.raises(InputError, match="this is a directory"):
        read_jsonl(tmp_path, PREFERENCE)
    with pytest.raises(InputError, match='\'drop\'; "error" or "skip" is expected'):
        check_readable(tmp_path, "drop")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Sky? It is blue.", "Sky? It is green.", "Sky? It is"),  # the space opens the completions
        ("Sky?blue", "Sky?green", "Sky?"),
        ("abc", "abcd", "ab"),  # neither completion is left empty
        ("ab c", "ab  ", "ab"),
    ],
)
def test_an_implicit_prompt_is_taken_out_where_trl_takes_it(chosen, rejected, prompt):
    row = check_row({"chosen": chosen, "rejected": rejected}, PREFERENCE)
    n = len(prompt)
    assert row == {"prompt": prompt, "chosen": chosen[n:], "rejected": rejected[n:]}


@settings(deadline=None)
@given(st.text("ab ", min_size=1), st.text("ab ", min_size=1))
def test_an_implicit_prompt_loses_no_character(chosen, rejected):
    row = extract_prompt(chosen, rejected)
    assert row["prompt"] + row["chosen"] == chosen
    assert row["prompt"] + row["rejected"] == rejected
    assert row["chosen"]
    assert row["rejected"]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda text: text.isprintable() or "\n" in text), min_size=1))
def test_any_text_comes_back(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, *({"prompt": text} for text in texts))
    assert [row["prompt"] for row in read_jsonl(path, PROMPT_ONLY).rows] == texts
