"""Sources by name: what a flag may say, sets that TFDS prepared, and several at once."""

import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from prefjax.checks import InputError
from prefjax.data import (
    LANGUAGE_MODELING,
    PROMPT_ONLY,
    STEPWISE,
    UNPAIRED,
    Source,
    parse_sources,
    prepare,
    prepare_all,
)
from prefjax.data.prepared import _hushed
from tests.data.small import write_jsonl
from tests.data.trl_records import said


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("a.jsonl", [("a.jsonl", None)]),
        ("a.jsonl,b.parquet", [("a.jsonl", None), ("b.parquet", None)]),
        ("a.jsonl=0.7,b.parquet=0.3", [("a.jsonl", 0.7), ("b.parquet", 0.3)]),
        ("tfds:set/config:1.0.0#train[:10%]=2,dir/*.parquet=1e-3", [
            ("tfds:set/config:1.0.0#train[:10%]", 2.0), ("dir/*.parquet", 0.001),
        ]),
        ("a=b.jsonl", [("a=b.jsonl", None)]),  # this and the next two are there
        ("a,b.jsonl=2,c.jsonl=1", [("a,b.jsonl", 2.0), ("c.jsonl", 1.0)]),
        ("x=1,y=2.jsonl,a=b.jsonl", [("x=1,y=2.jsonl", None), ("a=b.jsonl", None)]),
    ],
)  # fmt: skip
def test_what_a_flag_may_say(tmp_path, monkeypatch, text, sources):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.jsonl", "a,b.jsonl", "x=1,y=2.jsonl"):
        (tmp_path / name).write_text("")
    assert parse_sources(text) == tuple(Source(*source) for source in sources)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--data: a source without a name"),
        ("a.jsonl,,b.jsonl", "a source without a name"),
        ("a.jsonl=1,", "a source without a name"),
        ("=1", 'a source without a name before "=1"'),
        ("a.jsonl=much", '--data: the weight "much" of "a.jsonl"; a number is expected after ='),
        ("a.jsonl=", 'the weight "" of "a.jsonl"'),
        ("a.jsonl=0", 'the weight 0 of "a.jsonl"; a positive number is expected'),
        ("a.jsonl=-1,b.jsonl=1", "the weight -1 of"),
        ("a.jsonl=nan", "the weight nan of"),
        ("a.jsonl=inf", "the weight inf of"),
        ("a.jsonl=1,b.jsonl", "b.jsonl has no weight, others have one; weights for all or for none"),
    ],
)
def test_what_it_may_not(text, words):
    with pytest.raises(InputError) as error:
        parse_sources(text)
    assert words in str(error.value)


def test_all_are_prepared_in_their_order(tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", {"prompt": "a"}, b"{", {"prompt": "b"})
    b = write_jsonl(tmp_path / "b.jsonl", {"prompt": "c"})
    cache = tmp_path / "cache"
    sources = parse_sources(f"{b}=1,{a}=3")
    records = prepare_all(sources, PROMPT_ONLY, bad="skip", cache=cache)
    assert [[row["prompt"] for row in one.rows] for one in records] == [["c"], ["a", "b"]]
    assert [one.source for one in records] == [b, a]
    with pytest.raises(InputError, match=r"a.jsonl, line 2: malformed JSON"):
        prepare_all(sources, PROMPT_ONLY, cache=cache)


@pytest.fixture(scope="module")
def tfds_home(tmp_path_factory):
    """A data directory of TFDS with a set in it, made as its users make them; no TensorFlow."""
    home = tmp_path_factory.mktemp("tfds")
    text = tfds.features.Text

    class SmallSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        code_path = None

        def _info(self):
            features = {
                "prompt": text(), "completion": text(), "label": tfds.features.ClassLabel(names=["bad", "good"]),
                "messages": tfds.features.Sequence({"role": text(), "content": text()}),
                "completions": tfds.features.Sequence(text()), "labels": tfds.features.Sequence(np.bool_),
                "about": {
                    "score": tfds.features.Scalar(np.float32),
                    "ids": tfds.features.Tensor(shape=(2, 2), dtype=np.int32),
                },
                "turns": tfds.features.Dataset({"who": text()}),
            }  # fmt: skip
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {
                    "prompt": f"é{i}", "completion": "c", "label": i % 2, "messages": said("Sky?", f"Blue {i}."),
                    "completions": ["s", "t"], "labels": [True, False],
                    "about": {"score": 0.5, "ids": [[1, 2], [3, 4]]}, "turns": [{"who": "me"}, {"who": "you"}],
                }  # fmt: skip

    with _hushed(tfds):
        builder = SmallSet(data_dir=str(home), file_format="array_record")
        skip = tfds.download.ComputeStatsMode.SKIP
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, compute_stats=skip)
        )
    return home


def test_tfds_sets_by_name_and_by_directory(tfds_home, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_home))
    cache = tmp_path / "cache"
    records = prepare("tfds:small_set", UNPAIRED, cache=cache)
    assert [(row["prompt"], row["label"], row["line"]) for row in records.rows] == [
        (f"é{i}", bool(i % 2), i + 1) for i in range(4)
    ]
    extras = records.rows[3]["extras"]
    assert extras["messages"] == said("Sky?", "Blue 3.")
    assert extras["about"] == {"score": 0.5, "ids": [[1, 2], [3, 4]]}
    assert extras["turns"] == [{"who": "me"}, {"who": "you"}]
    assert json.loads(json.dumps(extras)) == extras

    same = prepare("tfds:small_set:1.2.0#train", UNPAIRED, cache=cache)
    by_place = prepare(tfds_home / "small_set" / "1.2.0", UNPAIRED, cache=cache)
    assert records.identity == same.identity == by_place.identity
    assert len(list(cache.iterdir())) == 1
    parts = {
        split: prepare(f"tfds:small_set#{split}", LANGUAGE_MODELING, cache=cache)
        for split in ("train", "test", "train[:50%]")
    }
    assert [part.identity.rows for part in parts.values()] == [4, 2, 2]
    assert len({part.identity.sha256 for part in parts.values()}) == 3
    assert parts["test"].rows[1]["messages"] == said("Sky?", "Blue 1.")
    test = prepare(f"{tfds_home}/small_set/1.2.0#test", STEPWISE, cache=cache)
    assert test.rows[0]["labels"] == [True, False]
    assert capfd.readouterr() == ("", "")


def test_tfds_sets_that_cannot_be_read(tfds_home, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_home))
    for source, words in {
        "tfds:other": f"other is not in {tfds_home}; a set that was prepared there is expected; nothing is downloaded",
        "tfds:small_set:9.0.0": "Prepare it, as with `python -c",
        "tfds:": 'this is no name of a TFDS set; "tfds:NAME[/CONFIG][:VERSION][#SPLIT]" is expected',
        "tfds:small_set:1": "this is no name of a TFDS set",
        "tfds:small_set#dev": 'no split "dev" (Unknown split',
        "tfds:small_set#train[x]": 'no split "train[x]"',
    }.items():
        with pytest.raises(InputError) as error:
            prepare(source, PROMPT_ONLY, cache=tmp_path)
        assert str(error.value).startswith(source)
        assert words in str(error.value)

    other = shutil.copytree(tfds_home / "small_set" / "1.2.0", tmp_path / "other")
    info = (other / "dataset_info.json").read_text()
    (other / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    with pytest.raises(
        InputError, match=r"it is prepared in the format tfrecord; .*file_format='array_record'"
    ):
        prepare(other, PROMPT_ONLY, cache=tmp_path)
    (other / "dataset_info.json").write_text(info)
    for data in other.glob("*train*"):
        data.write_bytes(data.read_bytes()[:-80])
    with pytest.raises(InputError, match=r"other: it cannot be read"):
        prepare(other, PROMPT_ONLY, cache=tmp_path)
    for data in other.glob("*train*"):
        data.unlink()
    with pytest.raises(InputError, match=r"other: it cannot be read"):
        prepare(other, PROMPT_ONLY, cache=tmp_path)
    (other / "features.json").write_text("{")
    with pytest.raises(InputError, match=r"other: it cannot be read"):
        prepare(other, PROMPT_ONLY, cache=tmp_path)
