"""Parquet: the rows that JSON Lines of the same data give, from a file or from shards, and clear errors."""

import datetime
import decimal
import hashlib
import json
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from prefjax.checks import InputError
from prefjax.data import LANGUAGE_MODELING, PREFERENCE, PROMPT_ONLY, UNPAIRED, prepare, read_jsonl
from prefjax.data.parquet import parquet_table
from tests.data.small import write_jsonl
from tests.data.trl_records import ANSWER, CALL, THOUGHT, said


def write_parquet(path, rows, **more) -> str:
    parquet.write_table(pa.Table.from_pylist(rows), path, **more)
    return str(path)


def rows_of(source, kind):
    return [row for _, row in parquet_table(source).rows(kind)]


TALK = [
    {
        "messages": [*said("1 + 0?"), CALL, ANSWER, THOUGHT],
        "id": 1,
        "tools": [{"name": "sum", "strict": None}],
    },
    {"messages": said("Sky?", "Blue."), "id": None, "tools": None},
]


def test_conversations_as_from_json_lines(tmp_path):
    # Every message has every field in Parquet, most of them null: what was not there is not there again.
    rows = rows_of(write_parquet(tmp_path / "talk.parquet", TALK), LANGUAGE_MODELING)
    lines = read_jsonl(write_jsonl(tmp_path / "talk.jsonl", *TALK), LANGUAGE_MODELING).rows
    assert [row["messages"] for row in rows] == [row["messages"] for row in lines]
    assert rows[0]["extras"] == {"id": 1, "tools": [{"name": "sum"}]}
    assert rows[1]["extras"] == {"id": None, "tools": None}


PAIR = st.fixed_dictionaries(
    {"prompt": st.text("aé😀 ", min_size=1), "chosen": st.just("a"), "rejected": st.just("b")},
    optional={"tags": st.lists(st.integers(0, 3), max_size=2), "score": st.floats(0, 1)},
)


@settings(deadline=None, max_examples=20)
@given(st.lists(PAIR, min_size=1, max_size=5))
def test_any_rows_come_back_however_they_are_grouped(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("rows") / "pairs.parquet"
    columns = {name for pair in pairs for name in pair}
    whole = [{name: pair.get(name) for name in sorted(columns)} for pair in pairs]
    rows = rows_of(write_parquet(path, whole, row_group_size=2), PREFERENCE)
    assert [row["line"] for row in rows] == list(range(1, len(pairs) + 1))
    assert [{k: v for k, v in {**row, **row["extras"]}.items() if k in columns} for row in rows] == whole


def test_shards_are_one_source_in_the_order_of_their_names(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for name, first in (("b", 3), ("a", 0), ("c", 5)):
        write_parquet(shards / f"{name}.parquet", [{"prompt": f"p{i}"} for i in range(first, first + 3)])
    (shards / "README.md").write_text("shards")
    prompts = ["p0", "p1", "p2", "p3", "p4", "p5", "p5", "p6", "p7"]
    cache = tmp_path / "cache"
    whole = prepare(shards, PROMPT_ONLY, cache=cache)
    assert [row["prompt"] for row in whole.rows] == prompts
    assert [row["line"] for row in whole.rows] == list(range(1, 10))
    content = b"".join((shards / f"{name}.parquet").read_bytes() for name in "abc")
    assert whole.identity.sha256 == hashlib.sha256(content).hexdigest()
    # A pattern that matches the same bytes is the same set.
    assert prepare(str(shards / "*.parquet"), PROMPT_ONLY, cache=cache).identity == whole.identity
    assert len(list(cache.iterdir())) == 1
    some = prepare(str(shards / "[ab].parquet"), PROMPT_ONLY, cache=cache)
    assert some.identity.rows == 6
    assert some.identity.sha256 != whole.identity.sha256


def test_values_that_json_does_not_have(tmp_path):
    row = {
        "prompt": "p", "completion": b"c", "label": 1, "when": datetime.date(2024, 2, 3),
        "price": decimal.Decimal("1.5"), "image": b"\xff\xfe", "map": {"a": [1.5, None]},
    }  # fmt: skip
    table = pa.Table.from_pylist([row]).append_column(
        "pairs", pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))
    )
    parquet.write_table(table, tmp_path / "rows.parquet")
    (read,) = prepare(tmp_path / "rows.parquet", UNPAIRED, cache=tmp_path / "cache").rows
    assert (read["completion"], read["label"]) == ("c", True)
    assert read["extras"] == {
        "when": "2024-02-03", "price": 1.5, "image": "\udcff\udcfe", "map": {"a": [1.5, None]}, "pairs": {"k": 1},
    }  # fmt: skip
    assert json.loads(json.dumps(read)) == read
    with pytest.raises(InputError, match=r'rows.parquet, line 1: "prompt" holds the lone surrogate \\udcff'):
        prepare(write_parquet(tmp_path / "rows.parquet", [{"prompt": b"\xff"}]), PROMPT_ONLY)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "pairs.parquet"
    with pytest.raises(InputError, match=r"pairs.parquet: there is no such file; a Parquet file is expected"):
        prepare(path, PREFERENCE)
    path.write_bytes(b'{"prompt": "p"}\n' * 9)
    with pytest.raises(InputError, match=r"pairs.parquet: it cannot be read as Parquet \(.*Get it again"):
        prepare(path, PREFERENCE)
    write_parquet(path, [{"prompt": "p" * 99}] * 9)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs.parquet: it cannot be read as Parquet"):
        prepare(path, PROMPT_ONLY)
    write_parquet(path, [{"prompt": "p"}, {"prompt": None}])
    with pytest.raises(InputError, match=r'pairs.parquet, line 2: "prompt" is null; a string, or a list of'):
        prepare(path, PROMPT_ONLY)
    with pytest.raises(
        InputError, match=r'line 1: no column "chosen", "rejected".*These are prompt_only columns'
    ):
        prepare(path, PREFERENCE)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"empty: no Parquet file is there"):
        prepare(empty, PREFERENCE)
    with pytest.raises(InputError, match=r"\*\.parquet: no Parquet file is there"):
        prepare(str(empty / "*.parquet"), PREFERENCE)
    (empty / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(InputError, match=r"Write Parquet, as with `dataset.to_parquet"):
        prepare(empty, PREFERENCE)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_parquet(empty / f"{name}.parquet", [{"prompt": name}])
    with pytest.raises(InputError, match=r"shards of several sets \(test, train\).*empty/test-\*.parquet"):
        prepare(empty, PROMPT_ONLY)
    assert len(rows_of(str(empty / "train-*.parquet"), PROMPT_ONLY)) == 2


def test_without_pyarrow(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "rows.parquet", [{"prompt": "p"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'Run `pip install "prefjax\[text\]"`'):
        rows_of(path, PROMPT_ONLY)
