"""Packed rows against the same rows one by one: losses, what is logged, and gradients."""

import itertools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align import (
    PAIRED_LOSSES,
    add_mean_length,
    add_packed_mean_length,
    add_packed_reference,
    add_reference,
    packed_paired_objective,
    packed_sft_objective,
    paired_objective,
    sft_objective,
)
from prefjax.checks import InputError
from prefjax.data import LANGUAGE_MODELING, PREFERENCE, PROMPT_COMPLETION, Sequences, TokenRows, batches, pack
from prefjax.policy import RopeScaling
from prefjax.types import mean_of
from tests.policy.goldens import tiny

VOCAB, UNITS, WIDTH = 11, 10, 40
GEMMA = {
    "windows": (3, 0), "attention_softcap": 2.0, "logit_softcap": 3.0, "norm_offset": True, "post_norms": True,
    "scale_embeddings": True, "activation": "gelu_tanh", "qk_norm": True, "local_rope_theta": 20.0,
    "rope_scaling": RopeScaling("linear", 4.0),
}  # fmt: skip
FAMILIES = {"llama": {}, "window": {"windows": (3, 3)}, "gemma": GEMMA}
each_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def rows_of(kind, seed=0) -> TokenRows:
    """Ragged rows of random tokens; pairs share their prompt."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 6)) for _ in range(UNITS)]
    starts = np.array([len(prompt) for prompt in prompts], np.int32)

    def answered() -> Sequences:
        rows = [np.concatenate([prompt, rng.integers(0, VOCAB, rng.integers(1, 7))]) for prompt in prompts]
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        return Sequences(np.concatenate(rows).astype(np.int32), offsets, starts)

    if kind == PREFERENCE:
        fields = {"chosen": answered(), "rejected": answered()}
    else:
        fields = {"completion": answered()}
    if kind == LANGUAGE_MODELING:
        field = fields["completion"]
        learned = rng.random(len(field.tokens)) < 0.6
        learned[field.offsets[:-1]] = False
        learned[field.offsets[1:] - 1] = True
        first = [int(np.argmax(learned[a:b])) for a, b in itertools.pairwise(field.offsets)]
        fields = {"completion": field._replace(learned=learned, prompt_lengths=np.array(first, np.int32))}
    counts = {"rows": UNITS, "kept": UNITS}
    return TokenRows(kind, "rows.jsonl", fields, np.arange(1, UNITS + 1), counts)


def whole(kind, *, share_prompts=True):
    """All rows as one batch, one by one and packed, and a bound on the learned tokens of a packed row.

    The packed batch has a row more than there is anything to put in, and both have rows of weight 0.
    """
    rows = rows_of(kind)
    apart = batches(rows, batch_size=UNITS + 2, shuffle=False)
    first = next(apart)
    apart.close()
    size = pack(rows, width=WIDTH, batch_size=1, share_prompts=share_prompts).about["packed_rows"]
    together = pack(rows, width=WIDTH, batch_size=size + 1, share_prompts=share_prompts, seed=5)
    packed = next(together)
    together.close()
    assert size < UNITS // 2
    assert sorted(packed["index"][packed["index"] >= 0].tolist()) == list(range(UNITS))
    return jax.tree.map(jnp.asarray, first), jax.tree.map(jnp.asarray, packed), int(together.about["targets"])




def means_and_gradient(objective, params, batch):
    def loss(params):
        means = mean_of(objective(params, batch, jax.random.key(0)))
        return means["loss"], means

    gradient, means = jax.jit(jax.grad(loss, has_aux=True))(params)
    return means, gradient


def assert_same(got, want, tolerance=1e-5):
    """Means to 1e-5 of the larger of 1 and themselves, gradients to 1e-5 of the largest entry."""
    (means, gradient), (wanted, wanted_gradient) = got, want
    assert means.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(means[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted_gradient))
    assert largest > 1e-3
    for leaf, expected in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted_gradient), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=tolerance * largest)


@each_family
@pytest.mark.parametrize("kind", [PROMPT_COMPLETION, LANGUAGE_MODELING], ids=lambda kind: kind.name)
def test_supervised(family, kind):
    policy, params = tiny(**FAMILIES[family])
    rows, packed, targets = whole(kind)
    longest = rows_of(kind).longest_completion()
    want = means_and_gradient(sft_objective(policy, max_completion=longest), params, rows)
    got = means_and_gradient(packed_sft_objective(policy, max_targets=targets), params, packed)
    assert_same(got, want)


def with_references(policy, reference, rows, packed, targets):
    """Both batches with the reference in them, made as a run makes it: of microbatches."""
    longest = rows_of(PREFERENCE).longest_completion()
    add = jax.jit(add_reference(policy, max_completion=longest))
    add_packed = jax.jit(add_packed_reference(policy, max_targets=targets))

    def of(add, batch):
        return jax.tree.map(lambda leaf: leaf[0], add(reference, jax.tree.map(lambda leaf: leaf[None], batch)))

    return of(add, rows), of(add_packed, packed)


@pytest.mark.parametrize("share_prompts", [True, False], ids=["shared", "apart"])
@each_family
def test_pairs(family, share_prompts):
    policy, params = tiny(**FAMILIES[family])
    reference = tiny(seed=1, **FAMILIES[family])[1]
    rows, packed, targets = whole(PREFERENCE, share_prompts=share_prompts)
    rows, packed = with_references(policy, reference, rows, packed, targets)
    longest = rows_of(PREFERENCE).longest_completion()
    paired = PAIRED_LOSSES["sigmoid"]
    want = means_and_gradient(
        paired_objective(policy, paired, beta=0.5, max_completion=longest), params, rows
    )
    got = means_and_gradient(
        packed_paired_objective(policy, paired, beta=0.5, max_targets=targets), params, packed
    )
    assert_same(got, want)
    assert abs(float(want[0]["rewards/margins"])) > 0.1


# One loss that divides by lengths, one with a likelihood beside it, and those that have no reference.
@pytest.mark.parametrize("name", ["ipo", "rpo", "simpo", "orpo"])
def test_losses_that_ask_for_more_than_sums(name):
    policy, params = tiny()
    reference = tiny(seed=1)[1]
    rows, packed, targets = whole(PREFERENCE)
    rows, packed = with_references(policy, reference, rows, packed, targets)
    rows, packed = add_mean_length(rows), add_packed_mean_length(packed)
    longest = rows_of(PREFERENCE).longest_completion()
    paired = PAIRED_LOSSES[name]
    want = means_and_gradient(
        paired_objective(policy, paired, beta=0.5, max_completion=longest), params, rows
    )
    got = means_and_gradient(
        packed_paired_objective(policy, paired, beta=0.5, max_targets=targets), params, packed
    )
    assert ("nll_loss" in want[0]) == bool(paired.likelihood)
    assert_same(got, want)


def test_a_loss_that_needs_smoothing_says_so_here_too():
    policy, _ = tiny()
    with pytest.raises(InputError, match="label_smoothing"):
        packed_paired_objective(policy, PAIRED_LOSSES["exo_pair"], beta=0.1, max_targets=4)


def test_what_padding_holds_does_not_matter():
    policy, params = tiny()
    _, packed, targets = whole(PROMPT_COMPLETION)
    objective = packed_sft_objective(policy, max_targets=targets)
    want = means_and_gradient(objective, params, packed)
    tokens = packed["packed"]["tokens"]
    noise = jnp.where(packed["packed"]["groups"] < 0, 7, tokens)
    assert (noise != tokens).any()
    spoilt = {**packed, "packed": {**packed["packed"], "tokens": noise}}
    assert_same(means_and_gradient(objective, params, spoilt), want, tolerance=1e-6)


def test_adapters_and_bfloat16():
    """Packing touches places alone: what else a policy is stays."""
    from prefjax.policy import LoraConfig

    policy, params = tiny(lora=LoraConfig(2, 4.0, ("q_proj", "down_proj")))
    params = jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0.3, leaf), params)  # B, that is
    rows, packed, targets = whole(PROMPT_COMPLETION)
    longest = rows_of(PROMPT_COMPLETION).longest_completion()
    want = means_and_gradient(sft_objective(policy, max_completion=longest), params, rows)
    got = means_and_gradient(packed_sft_objective(policy, max_targets=targets), params, packed)
    assert_same(got, want)
    half, _ = tiny(dtype="bfloat16", lora=replace(policy.config.lora))
    in_half, _ = means_and_gradient(packed_sft_objective(half, max_targets=targets), params, packed)
    assert float(in_half["loss"]) == pytest.approx(float(want[0]["loss"]), abs=2e-2)
