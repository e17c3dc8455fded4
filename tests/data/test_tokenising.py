"""Text to tokens: the boundary, EOS, what is cut and what is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data import (
    PREFERENCE,
    PROMPT_COMPLETION,
    PROMPT_ONLY,
    check_tokenizer,
    load_tokenizer,
    tokenise,
    tokenizer_fingerprint,
)
from prefjax.data import tokenising as tokenising_module
from tests.data.small import bpe_tokenizer, records

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def bpe():
    return bpe_tokenizer()


def test_bos_prompt_completion_eos(bpe):
    rows = tokenise(records(PROMPT_COMPLETION, ("the cat", " yes"), ("no", "no")), bpe)
    assert bpe.convert_ids_to_tokens(rows.fields["completion"].row(0)) == [
        "<s>",
        "the",
        "Ġcat",
        "Ġyes",
        "</s>",
    ]
    assert rows.fields["completion"].tokens.dtype == np.int32
    assert rows.fields["completion"].offsets.tolist() == [0, 5, 9]
    assert rows.fields["completion"].prompt_lengths.tolist() == [3, 2]
    assert rows.fields["completion"].lengths().tolist() == [5, 4]
    assert rows.lines.tolist() == [1, 2]
    assert rows.counts == {"rows": 2, "kept": 2, "truncated": 0}
    assert (rows.longest(), rows.longest_completion()) == (5, 2)


def test_eos_in_the_text_is_not_added_twice_and_is_no_end_in_the_middle(bpe):
    rows = tokenise(records(PROMPT_COMPLETION, ("a", "b</s>"), ("a", "b</s>c"), ("a", "</s>")), bpe)
    read = [bpe.convert_ids_to_tokens(rows.fields["completion"].row(i)) for i in range(3)]
    assert read == [["<s>", "a", "b", "</s>"], ["<s>", "a", "b", "</s>", "c", "</s>"], ["<s>", "a", "</s>"]]


def test_pairs_share_the_prompt_and_prompts_get_no_eos(bpe):
    pairs = tokenise(records(PREFERENCE, ("é the", "a", " no yes")), bpe)
    assert list(pairs.fields) == ["chosen", "rejected"]
    chosen, rejected = pairs.fields["chosen"].row(0), pairs.fields["rejected"].row(0)
    prompt = tokenise(records(PROMPT_ONLY, ("é the",)), bpe).fields["prompt"]
    n = int(prompt.lengths()[0])
    assert prompt.prompt_lengths[0] == pairs.fields["chosen"].prompt_lengths[0] == n
    assert chosen[:n].tolist() == rejected[:n].tolist() == prompt.row(0).tolist()
    assert (len(chosen), len(rejected)) == (n + 2, n + 3)
    assert (pairs.longest(), pairs.longest_completion()) == (n + 3, 3)


def test_a_token_across_the_boundary_shows_both_windows(bpe):
    rows = records(PREFERENCE, ("fine", " no", " yes"), ("a cat the ", "no", "yes"), source="pairs.jsonl")
    with pytest.raises(InputError) as error:
        tokenise(rows, bpe)
    said = str(error.value)
    assert said.startswith(
        "pairs.jsonl, line 2: a token reaches across the end of the prompt: from token 1 on, "
    )
    assert "the prompt alone reads ['a', 'Ġcat', 'Ġthe', 'Ġ'], " in said
    assert "prompt + chosen reads ['a', 'Ġcat', 'Ġthe', 'Ġno', '</s>']" in said
    assert 'boundary="joined"' in said


def test_boundaries_that_were_asked_for(bpe):
    rows = records(PREFERENCE, ("the ", "no", "x"))
    joined = tokenise(rows, bpe, boundary="joined").fields
    # " no" is one token, so the completions of the pair start before the space.
    assert bpe.convert_ids_to_tokens(joined["chosen"].row(0)) == ["<s>", "the", "Ġno", "</s>"]
    assert bpe.convert_ids_to_tokens(joined["rejected"].row(0)) == ["<s>", "the", "Ġ", "x", "</s>"]
    assert joined["chosen"].prompt_lengths.tolist() == joined["rejected"].prompt_lengths.tolist() == [2]
    separate = tokenise(rows, bpe, boundary="separate").fields
    assert bpe.convert_ids_to_tokens(separate["chosen"].row(0)) == ["<s>", "the", "Ġ", "no", "</s>"]
    assert separate["chosen"].prompt_lengths.tolist() == [3]


def test_a_completion_needs_a_token_before_it():
    bare = bpe_tokenizer(bos=False)
    assert tokenise(records(PROMPT_COMPLETION, ("a", "b")), bare).fields["completion"].prompt_lengths[0] == 1
    with pytest.raises(InputError, match=r"rows.jsonl, line 1: the prompt has no token of its own"):
        tokenise(records(PROMPT_COMPLETION, (" ", "no")), bare, boundary="joined")


# "the" (line 1): 2 + 2 tokens; line 2: 3 + 2 and 3 + 4; line 3: 5 + 2 and 5 + 3.
PAIRS = records(PREFERENCE, ("the", "a", "b"), ("the cat", "a", "xyz"), ("the the cat no", "a", "bc"))


@pytest.mark.parametrize(
    ("max_length", "lines", "lengths", "truncated", "filled"),
    [
        (8, [1, 2, 3], [(4, 4), (5, 7), (7, 8)], 0, 0),
        (7, [1, 2, 3], [(4, 4), (5, 7), (7, 7)], 1, 0),
        (6, [1, 2, 3], [(4, 4), (5, 6), (6, 6)], 2, 0),
        (
            5,
            [1, 2],
            [(4, 4), (5, 5)],
            1,
            1,
        ),  # the prompt of line 3 fills five tokens: nothing to learn is left
        (3, [1], [(3, 3)], 1, 2),
    ],
)
def test_truncation_keeps_the_start_and_counts(bpe, max_length, lines, lengths, truncated, filled):
    rows = tokenise(PAIRS, bpe, max_length=max_length)
    assert rows.lines.tolist() == lines
    assert (
        list(zip(*(rows.fields[f].lengths().tolist() for f in ("chosen", "rejected")), strict=True))
        == lengths
    )
    assert rows.counts["truncated"] == truncated
    assert rows.counts.get("skipped: prompt fills max_length", 0) == filled
    assert rows.counts["kept"] + filled == rows.counts["rows"] == 3
    whole = tokenise(PAIRS, bpe)
    for field, sequences in rows.fields.items():
        for i, line in enumerate(lines):
            assert sequences.row(i).tolist() == whole.fields[field].row(line - 1)[:max_length].tolist()
            assert sequences.prompt_lengths[i] < len(sequences.row(i))


def test_overlong_rows_skipped_or_refused(bpe):
    rows = tokenise(PAIRS, bpe, max_length=7, overlong="skip")
    assert rows.lines.tolist() == [1, 2]
    assert rows.counts == {"rows": 3, "kept": 2, "truncated": 0, "skipped: too long": 1}
    with pytest.raises(
        InputError, match=r"rows.jsonl, line 3: the row has 8 tokens; at most 7 \(max_length\)"
    ):
        tokenise(PAIRS, bpe, max_length=7, overlong="error")
    with pytest.raises(InputError, match=r"no row is left \(rows 3, kept 0, truncated 0, .*max_length 3\)"):
        tokenise(PAIRS, bpe, max_length=2)


def test_a_prompt_alone_is_never_cut(bpe):
    prompts = records(PROMPT_ONLY, ("the",), ("the cat",), ("the cat no",))
    rows = tokenise(prompts, bpe, max_length=3)
    assert rows.lines.tolist() == [1, 2]
    assert rows.counts["skipped: prompt fills max_length"] == 1
    assert rows.longest_completion() == 0


def test_chunks_do_not_show(bpe, monkeypatch):
    rows = records(PROMPT_COMPLETION, *((f"the {i}", " yes" * (i % 5 + 1)) for i in range(50)))
    once = tokenise(rows, bpe).fields["completion"]
    monkeypatch.setattr(tokenising_module, "CHUNK", 7)
    assert all(
        np.array_equal(a, b) for a, b in zip(once, tokenise(rows, bpe).fields["completion"], strict=True)
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=8))
def test_any_text_keeps_every_byte_and_starts_its_completion_where_it_starts(bpe, texts):
    # Separately tokenised, the parts decode to what they were; joined, the whole does.
    texts = [tuple(part.encode("utf-8", "ignore").decode() or "x" for part in pair) for pair in texts]
    rows = records(PROMPT_COMPLETION, *texts)
    separate = tokenise(rows, bpe, boundary="separate").fields["completion"]
    joined = tokenise(rows, bpe, boundary="joined").fields["completion"]
    for i, (prompt, completion) in enumerate(texts):
        ids, start = separate.row(i).tolist(), separate.prompt_lengths[i]
        assert bpe.decode(ids[1:start]) == prompt
        assert bpe.decode(ids[start:-1]) == completion
        assert bpe.decode(joined.row(i)[1:-1].tolist()) == prompt + completion
        assert ids[0] == BOS
        assert ids[-1] == joined.row(i)[-1] == EOS


def test_choices_are_checked():
    check = tokenising_module._check_choices
    for choices, said in (
        ((8, "drop", "error", False), "--overlong: 'drop'; one of truncate, skip, error is expected"),
        ((8, "skip", "warn", False), "boundary: 'warn'; one of error, joined, separate is expected"),
        ((1, "skip", "error", False), "--max-length: 1; at least 2 is expected"),
        ((8, "skip", "error", True), "rows.jsonl: assistant_only was asked for, and the rows are preference"),
    ):
        with pytest.raises(InputError, match=said):
            check(*choices, PAIRS)


def test_tokenisers_from_a_directory(bpe, tmp_path):
    bpe.save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(tmp_path / "model")
    assert loaded("the cat")["input_ids"] == bpe("the cat")["input_ids"]
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(bpe)
    assert tokenizer_fingerprint(bpe) != tokenizer_fingerprint(bpe_tokenizer(bos=False))
    before = tokenizer_fingerprint(loaded)
    loaded(["the", "the cat"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(loaded) == before


def test_a_tokeniser_without_a_padding_token_is_fine(bpe, tmp_path):
    bare = bpe_tokenizer()
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    rows = tokenise(PAIRS, load_tokenizer(tmp_path))
    assert rows.fields["chosen"].tokens.tolist() == tokenise(PAIRS, bpe).fields["chosen"].tokens.tolist()


def test_directories_without_a_usable_tokeniser(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such directory"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(
        InputError, match=r"no tokeniser files; the directory holds config.json; one of tokenizer.json"
    ):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="its tokeniser cannot be loaded"):
        load_tokenizer(tmp_path)


def test_eos_has_to_be_there_one_token_and_ours_to_add(tmp_path):
    bpe_tokenizer(eos=False).save_pretrained(tmp_path / "none")
    with pytest.raises(InputError, match=r"none: the tokeniser has no EOS token; .*tokenizer_config.json"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"the tokeniser puts \['</s>'\] after every text, so after prompts too"
    ):
        check_tokenizer(bpe_tokenizer(eos_after=True))

    class Spells:  # a tokeniser that spells its EOS out
        eos_token, eos_token_id = "</s>", 2

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(letter) for letter in text]}

    with pytest.raises(InputError, match=r"'</s>' \(id 2\) is read back from text as \[60, 47, 115, 62\]"):
        check_tokenizer(Spells())
