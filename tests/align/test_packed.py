"""Packed rows against the same rows one by one: losses, what is logged, and gradients."""

import itertools
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
from prefjax.policy import LoraConfig, RopeScaling, join, split_adapters
from prefjax.types import mean_of
from tests.policy.goldens import tiny

VOCAB, UNITS, WIDTH = 11, 10, 40
GEMMA = {
    "windows": (3, 0), "attention_softcap": 2.0, "logit_softcap": 3.0, "norm_offset": True, "post_norms": True,
    "scale_embeddings": True, "activation": "gelu_tanh", "qk_norm": True, "local_rope_theta": 20.0,
    "rope_scaling": RopeScaling("linear", 4.0),
}  # fmt: skip
FAMILIES = {
    "llama": {"lora": LoraConfig(2, 4.0, ("q_proj", "down_proj"), (1,))},
    "window": {"windows": (3, 3)},
    "gemma": GEMMA,
}


def policy_of(family):
    """With adapters that are on, where there are any."""
    policy, params = tiny(**FAMILIES[family])
    adapters, base = split_adapters(params)
    return policy, join(jax.tree.map(lambda leaf: jnp.where(leaf == 0, 0.3, leaf), adapters), base)


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


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", PROMPT_COMPLETION),
        ("gemma", LANGUAGE_MODELING),
        pytest.param("window", LANGUAGE_MODELING, marks=pytest.mark.slow),
    ],
    ids=["llama", "gemma", "window"],
)
def test_supervised(family, kind):
    policy, params = policy_of(family)
    rows, packed, targets = whole(kind)
    longest = rows_of(kind).longest_completion()
    want = means_and_gradient(sft_objective(policy, max_completion=longest), params, rows)
    got = means_and_gradient(packed_sft_objective(policy, max_targets=targets), params, packed)
    assert_same(got, want)


def some_references(rows, packed, seed=3):
    """Both batches with a reference: a number for every completion, as if a model had said it."""
    each = jnp.asarray(np.random.default_rng(seed).normal(-12.0, 3.0, (UNITS, 2)), jnp.float32)
    sides = {
        name: {**rows[name], "reference_logp": each[jnp.maximum(rows["index"], 0), i]}
        for i, name in enumerate(("chosen", "rejected"))
    }
    of_units = each[jnp.maximum(packed["index"], 0)]
    return {**rows, **sides}, {**packed, "reference_logp": of_units.reshape(of_units.shape[0], -1)}


def both(policy, name, targets):
    """A loss on pairs one by one, and packed."""
    paired, longest = PAIRED_LOSSES[name], rows_of(PREFERENCE).longest_completion()
    return (
        paired_objective(policy, paired, beta=0.5, max_completion=longest),
        packed_paired_objective(policy, paired, beta=0.5, max_targets=targets),
    )


@pytest.mark.parametrize(("family", "share_prompts"), [("llama", True), ("gemma", True), ("window", False)])
def test_pairs(family, share_prompts):
    policy, params = policy_of(family)
    rows, packed, targets = whole(PREFERENCE, share_prompts=share_prompts)
    rows, packed = some_references(rows, packed)
    apart, together = both(policy, "sigmoid", targets)
    want = means_and_gradient(apart, params, rows)
    assert abs(float(want[0]["rewards/margins"])) > 0.01
    assert_same(means_and_gradient(together, params, packed), want)


def test_losses_that_ask_for_more_than_sums():
    """One that divides by lengths, those with a likelihood beside it, and those that have no reference."""
    policy, params = policy_of("llama")
    rows, packed, targets = whole(PREFERENCE)
    rows, packed = some_references(add_mean_length(rows), add_packed_mean_length(packed))

    @jax.jit
    def means(params, rows, packed):
        return {
            name: [
                mean_of(objective(params, batch, jax.random.key(0)))
                for objective, batch in zip(both(policy, name, targets), (rows, packed), strict=True)
            ]
            for name in ("ipo", "rpo", "simpo", "orpo")
        }

    for name, (want, got) in means(params, rows, packed).items():
        assert ("nll_loss" in want) == bool(PAIRED_LOSSES[name].likelihood)
        assert want.keys() == got.keys()
        for term, value in want.items():
            np.testing.assert_allclose(got[term], value, rtol=1e-5, atol=1e-5, err_msg=f"{name} {term}")


def test_the_reference_of_packed_pairs():
    """As a run adds it, microbatch by microbatch."""
    policy, params = policy_of("llama")
    rows, packed, targets = whole(PREFERENCE)
    longest = rows_of(PREFERENCE).longest_completion()

    def of(add, batch):
        return jax.jit(add)(params, jax.tree.map(lambda leaf: leaf[None], batch))

    want = of(add_reference(policy, max_completion=longest), rows)
    got = of(add_packed_reference(policy, max_targets=targets), packed)["reference_logp"][0]
    got = got.reshape(*packed["index"].shape, 2)
    for i, name in enumerate(("chosen", "rejected")):
        by_unit = dict(zip(rows["index"].tolist(), want[name]["reference_logp"][0].tolist(), strict=True))
        for units, sums in zip(packed["index"].tolist(), got[..., i].tolist(), strict=True):
            for unit, total in zip(units, sums, strict=True):
                assert total == pytest.approx(by_unit[unit] if unit >= 0 else 0.0, abs=2e-5)


def test_a_loss_that_needs_smoothing_says_so_here_too():
    policy, _ = tiny()
    with pytest.raises(InputError, match="label_smoothing"):
        packed_paired_objective(policy, PAIRED_LOSSES["exo_pair"], beta=0.1, max_targets=4)


def test_what_padding_holds_does_not_matter():
    policy, params = policy_of("llama")
    _, packed, targets = whole(PROMPT_COMPLETION)
    loss = jax.jit(packed_sft_objective(policy, max_targets=targets))
    tokens = packed["packed"]["tokens"]
    noise = jnp.where(packed["packed"]["groups"] < 0, 7, tokens)
    assert (noise != tokens).any()
    spoilt = {**packed, "packed": {**packed["packed"], "tokens": noise}}
    key = jax.random.key(0)
    assert loss(params, spoilt, key)["loss"] == loss(params, packed, key)["loss"]
