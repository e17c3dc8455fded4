"""Packed rows: every unit once, every token sees what it would alone, and numbers that are known up front."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.checks import InputError
from prefjax.data.packing import best_fit_decreasing, pack, unit_lengths
from prefjax.data.records import LANGUAGE_MODELING, PREFERENCE, PROMPT_COMPLETION, PROMPT_ONLY
from prefjax.data.token_rows import Sequences, TokenRows

WIDTH = 64


def flat(rows, starts, learned=None):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Sequences(np.concatenate(rows).astype(np.int32), offsets, np.array(starts, np.int32), learned)


def made(kind, count, seed=0):
    """Rows of random tokens; pairs share their prompt."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, 9, count)
    prompts = [rng.integers(1, 90, n) for n in starts]

    def answered():
        return [np.concatenate([prompt, rng.integers(1, 90, rng.integers(1, 20))]) for prompt in prompts]

    if kind == PREFERENCE:
        fields = {name: flat(answered(), starts) for name in ("chosen", "rejected")}
    else:
        field = flat(answered(), starts)
        if kind == LANGUAGE_MODELING:
            learned = rng.random(len(field.tokens)) < 0.5
            learned[field.offsets[:-1]] = False
            learned[field.offsets[1:] - 1] = True
            field = field._replace(learned=learned)
        fields = {"prompt" if kind == PROMPT_ONLY else "completion": field}
    return TokenRows(kind, "rows.jsonl", fields, np.arange(1, count + 1), {"rows": count, "kept": count})


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def epoch_of(batches):
    return take(batches, batches.steps_per_epoch)


def same(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.randoms())
def test_best_fit_decreasing_loses_nothing_overfills_nothing_and_does_not_depend_on_order(lengths, random):
    bins = best_fit_decreasing(np.array(lengths), 30)
    assert sorted(bins.lengths.tolist()) == sorted(lengths)
    sums = np.add.reduceat(bins.lengths, bins.offsets[:-1])
    assert sums.max() <= 30
    # No two rows could be one, which any packing by best fit has; and TRL's bound on how bad it can be.
    assert np.sort(sums)[:2].sum() > 30 or len(sums) == 1
    assert len(sums) <= 11 / 9 * (sum(1 for n in lengths if n > 15) + sum(lengths) / 30) + 1
    random.shuffle(lengths)
    again = best_fit_decreasing(np.array(lengths), 30)
    assert all(np.array_equal(a, b) for a, b in zip(bins, again, strict=True))


def test_best_fit_is_the_tightest():
    # 6 opens a row with room 4, 5 one with room 5; 4 goes where nothing is left over, 3 beside 5.
    bins = best_fit_decreasing(np.array([3, 4, 5, 6]), 10)
    assert np.split(bins.lengths, bins.offsets[1:-1])[0].tolist() == [6, 4]
    assert np.split(bins.lengths, bins.offsets[1:-1])[1].tolist() == [5, 3]


@pytest.mark.parametrize("kind", [PROMPT_COMPLETION, LANGUAGE_MODELING, PREFERENCE])
def test_every_unit_once_an_epoch_and_other_neighbours_in_the_next(kind):
    rows = made(kind, 50)
    batches = pack(rows, width=WIDTH, batch_size=4, seed=3)
    epochs = [epoch_of(batches) for _ in range(3)]
    for epoch in epochs:
        index = np.concatenate([batch["index"] for batch in epoch])
        assert sorted(index[index >= 0].tolist()) == list(range(50))
        assert all(
            np.array_equal(batch["weight"], (batch["index"] >= 0).astype(np.float32)) for batch in epoch
        )
        targets = np.concatenate([batch["packed"]["targets"] for batch in epoch])
        expected = sum(rows.fields[name].learned_in(i).sum() for name in rows.fields for i in range(50))
        assert targets.sum() == expected
        assert targets.sum(1).max() <= batches.about["targets"] <= WIDTH
    together = [{frozenset(row) for batch in epoch for row in batch["index"].tolist()} for epoch in epochs]
    assert together[0] != together[1] != together[2]


def test_what_is_known_up_front():
    rows = made(PREFERENCE, 50)
    batches = pack(rows, width=WIDTH, batch_size=4)
    epoch = epoch_of(batches)
    filled = np.concatenate([batch["packed"]["groups"] >= 0 for batch in epoch])
    assert filled.any(1).sum() == batches.about["packed_rows"]
    assert batches.steps_per_epoch == -(-batches.about["packed_rows"] // 4)
    assert epoch[0]["index"].shape == (4, batches.about["units"])
    fill = filled.sum() / (batches.about["packed_rows"] * WIDTH)
    assert batches.about["fill"] == pytest.approx(fill)
    assert filled.sum() == unit_lengths(rows).sum()
    # Once instead of twice, each prompt.
    apart = pack(rows, width=WIDTH, batch_size=4, share_prompts=False)
    filled_apart = sum((batch["packed"]["groups"] >= 0).sum() for batch in epoch_of(apart))
    assert filled_apart - filled.sum() == rows.fields["chosen"].prompt_lengths.sum()


def sequence_of(packed, row, owner):
    """The tokens that the last target of a sequence sees, by the rule of groups, branches and positions."""
    targets = np.flatnonzero((packed["targets"][row] == 1) & (packed["owner"][row] == owner))
    q = targets[-1]
    group, branch, position = (packed[name][row] for name in ("groups", "branches", "positions"))
    seen = (group == group[q]) & ((branch == 0) | (branch == branch[q])) & (position <= position[q])
    return np.flatnonzero(seen), targets


@pytest.mark.parametrize(
    ("kind", "share"),
    [(PROMPT_COMPLETION, True), (LANGUAGE_MODELING, True), (PREFERENCE, True), (PREFERENCE, False)],
)
def test_a_token_sees_its_own_sequence_and_is_predicted_by_the_token_before_it(kind, share):
    rows = made(kind, 30)
    batches = pack(rows, width=WIDTH, batch_size=3, share_prompts=share)
    for batch in epoch_of(batches):
        packed = batch["packed"]
        for i, units in enumerate(batch["index"]):
            for u, unit in enumerate(units[units >= 0].tolist()):
                for k, field in enumerate(rows.fields.values()):
                    seen, targets = sequence_of(packed, i, u * len(rows.fields) + k)
                    assert packed["tokens"][i, seen].tolist() == field.row(unit).tolist()
                    assert packed["positions"][i, seen].tolist() == list(range(len(seen)))
                    assert (
                        packed["positions"][i, targets].tolist()
                        == np.flatnonzero(field.learned_in(unit)).tolist()
                    )
                    before = {int(t): int(s) for s, t in itertools.pairwise(seen)}
                    assert [before[t] for t in targets] == packed["previous"][i, targets].tolist()
        padding = packed["groups"] < 0
        assert all(not packed[name][padding].any() for name in packed if name != "groups")
        assert (packed["groups"][padding] == -1).all()


def test_log_probabilities_are_those_of_rows_apart():
    from prefjax.policy import DecoderConfig, completion_logps, init, logits
    from prefjax.policy.decoder import Places
    from prefjax.policy.functional import placed_hidden_states

    config = DecoderConfig(
        vocab_size=96, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
        rope_theta=1e4, rms_norm_eps=1e-6, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    policy, params = init(config, jax.random.key(0))
    rows = made(PREFERENCE, 12)
    batch = epoch_of(pack(rows, width=WIDTH, batch_size=8))[0]
    count, longest = 2 * batch["index"].shape[1], rows.longest()

    @jax.jit
    def of_packed(params, packed):
        at = Places(packed["positions"], packed["groups"], packed["branches"])
        hidden = placed_hidden_states(policy, params, packed["tokens"], at)
        before = jnp.take_along_axis(hidden, packed["previous"][:, :, None], axis=1)
        every = jax.nn.log_softmax(logits(policy, params, before))
        logps = jnp.take_along_axis(every, packed["tokens"][:, :, None], axis=2)[:, :, 0] * packed["targets"]
        return jax.vmap(lambda x, owner: jax.ops.segment_sum(x, owner, count))(logps, packed["owner"])

    @jax.jit
    def apart(params, tokens, prompt_lengths, lengths):
        logps, _ = completion_logps(policy, params, tokens, prompt_lengths, lengths, max_completion=longest)
        return logps.sum(1)

    pairs = np.asarray(of_packed(params, batch["packed"])).reshape(*batch["index"].shape, 2)
    there = batch["index"] >= 0
    for k, field in enumerate(rows.fields.values()):
        tokens = np.stack([np.resize(field.row(i), longest) for i in range(12)])
        expected = np.asarray(apart(params, tokens, field.prompt_lengths, field.lengths()))
        np.testing.assert_allclose(pairs[there][:, k], expected[batch["index"][there]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_resuming_at_every_step_is_never_having_stopped(prefetch):
    rows = made(PREFERENCE, 40)

    def fresh():
        return pack(rows, width=WIDTH, batch_size=4, seed=5, prefetch=prefetch)

    run = fresh()
    steps = 2 * run.steps_per_epoch + 1
    unbroken = take(fresh(), steps)
    for step in range(0, steps, 3):
        cursor = json.loads(json.dumps(run.get_state()))
        resumed = fresh()
        resumed.set_state(cursor)
        assert all(same(a, b) for a, b in zip(take(resumed, steps - step), unbroken[step:], strict=True))
        resumed.close()
        take(run, 3)


def test_processes_together_have_the_batch_of_one():
    rows = made(LANGUAGE_MODELING, 40)
    whole = pack(rows, width=WIDTH, batch_size=4, seed=1)
    parts = [
        pack(rows, width=WIDTH, batch_size=4, seed=1, process_index=i, process_count=2) for i in range(2)
    ]
    for _ in range(whole.steps_per_epoch + 2):
        halves = [next(part) for part in parts]
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *halves)
        assert same(next(whole), together)
    assert parts[0].get_state() == parts[1].get_state() == whole.get_state()


def test_without_shuffling_epochs_are_alike_and_with_it_seeds_differ():
    rows = made(PROMPT_COMPLETION, 40)
    still = pack(rows, width=WIDTH, batch_size=4, shuffle=False)
    assert all(same(a, b) for a, b in zip(epoch_of(still), epoch_of(still), strict=True))
    first, second = (next(pack(rows, width=WIDTH, batch_size=4, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first["index"], second["index"])


def test_what_cannot_be_packed():
    rows = made(PREFERENCE, 10)
    longest = int(unit_lengths(rows).argmax())
    said = rf"rows.jsonl, line {longest + 1}: \d+ tokens, its prompt and completions together; at most 20"
    with pytest.raises(InputError, match=said):
        pack(rows, width=20, batch_size=2)
    with pytest.raises(InputError, match=r"rows.jsonl: prompt_only rows; preference, .* can be packed"):
        pack(made(PROMPT_ONLY, 10), width=WIDTH, batch_size=2)
    cursor = pack(rows, width=WIDTH, batch_size=2).get_state()
    with pytest.raises(InputError, match="packed was 64 when it was saved and is 72 now"):
        pack(rows, width=72, batch_size=2).set_state(cursor)
    with pytest.raises(InputError, match="share_prompts was True"):
        pack(rows, width=WIDTH, batch_size=2, share_prompts=False).set_state(cursor)
