"""Adapters: nothing changes at the start, only they are trained, and merged they are the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.checks import InputError
from prefjax.policy import (
    LORA_TARGETS,
    LoraConfig,
    hidden_states,
    join,
    merge_adapters,
    sample,
    split_adapters,
    with_adapters,
    without_adapters,
)
from prefjax.train import init_state, make_mesh, make_step, place, spread
from prefjax.types import Weighted
from tests.policy.goldens import tiny

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 6)), jnp.int32)
LENGTHS = jnp.array([6, 4])
states = jax.jit(hidden_states)
EVERYWHERE = LoraConfig(3, 5.0, LORA_TARGETS)
SOME = LoraConfig(2, 8.0, ("k_proj", "o_proj", "gate_proj"), (1, 2))


def adapted(lora, **changes):
    """A decoder of three blocks with adapters in it, at their start."""
    policy, params = tiny(num_layers=3, **changes)
    return policy, params, *with_adapters(policy, params, lora, jax.random.key(1))


def switched_on(params, seed=2):
    """The same with B drawn at random."""
    draws = np.random.default_rng(seed)
    adapters, base = split_adapters(params)
    return join(
        jax.tree.map(lambda leaf: jnp.asarray(draws.normal(0, 0.3, leaf.shape), jnp.float32), adapters), base
    )


def names(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("lora", [EVERYWHERE, SOME], ids=["everywhere", "some"])
def test_the_start_is_the_base_exactly_and_has_the_shapes_of_the_paper(lora):
    policy, params, with_them, both = adapted(lora)
    assert with_them.config.lora == lora
    assert without_adapters(with_them) == policy
    np.testing.assert_array_equal(
        states(with_them, both, TOKENS, LENGTHS), states(policy, params, TOKENS, LENGTHS)
    )
    adapters, base = split_adapters(both)
    assert names(base) == names(params)
    assert {name.split(".")[-3] for name in names(adapters)} == set(lora.targets)
    down = adapters["model"]["layers"]["self_attn"]["k_proj"]
    assert down["lora_A"]["weight"].shape == (3, lora.rank, 16)
    assert down["lora_B"]["weight"].shape == (3, 8, lora.rank)
    assert not down["lora_B"]["weight"].any()
    # Uniform on ±1/√in, in every block by itself.
    a = np.asarray(down["lora_A"]["weight"])
    assert 0.15 < np.abs(a).max() <= 0.25
    assert len(np.unique(a)) == a.size


@pytest.mark.parametrize(
    ("lora", "changes"),
    [(EVERYWHERE, {}), (SOME, {"attention_bias": True, "qk_norm": True})],
    ids=["everywhere", "some"],
)
def test_merged_they_are_the_same_function(lora, changes):
    policy, params, with_them, both = adapted(lora, **changes)
    both = switched_on(both)
    got = states(with_them, both, TOKENS, LENGTHS)
    assert np.abs(got - states(policy, params, TOKENS, LENGTHS)).max() > 0.1
    merged, weights = merge_adapters(with_them, both)
    assert merged == policy
    assert jax.tree.structure(weights) == jax.tree.structure(params)
    np.testing.assert_allclose(states(merged, weights, TOKENS, LENGTHS), got, atol=1e-5)
    # By hand: W + (α / r) B A where there is one, W elsewhere.
    part = both["model"]["layers"]["self_attn"]["k_proj"]
    for layer in range(3):
        update = np.asarray(part["lora_B"]["weight"][layer]) @ np.asarray(part["lora_A"]["weight"][layer])
        here = not lora.layers or layer in lora.layers
        want = part["weight"][layer] + here * lora.alpha / lora.rank * update
        np.testing.assert_allclose(
            weights["model"]["layers"]["self_attn"]["k_proj"]["weight"][layer], want, atol=1e-6
        )
    # Nothing to merge is nothing done.
    assert merge_adapters(policy, params) == (policy, params)


def test_completions_of_adapted_and_merged_are_the_same_tokens():
    _, _, with_them, both = adapted(SOME)
    both = switched_on(both)
    drawn = [
        sample(*one, TOKENS, LENGTHS, jax.random.key(0), max_new_tokens=5, stop_tokens=(), temperature=0)
        for one in ((with_them, both), merge_adapters(with_them, both))
    ]
    np.testing.assert_array_equal(drawn[0].tokens, drawn[1].tokens)


def test_a_step_trains_adapters_of_chosen_layers_and_has_state_for_nothing_else():
    _, _, policy, both = adapted(SOME)
    trained, fixed = split_adapters(both)
    mesh, optimizer = make_mesh(), optax.adam(0.1)
    state = init_state(jax.tree.map(jnp.copy, trained), optimizer, jax.random.key(0))

    def objective(params, batch, key):
        del key
        return {
            "loss": Weighted.of(
                (hidden_states(policy, params, batch["tokens"], batch["lengths"]) ** 3)[..., 0]
            )
        }

    step = make_step(objective, optimizer, spread(state, mesh), mesh, join=join)
    batch = place({"tokens": np.asarray(TOKENS), "lengths": np.asarray(LENGTHS)}, mesh, 1)
    for _ in range(2):  # at the first A has no gradient, as B is 0
        state, measured = step(state, batch, fixed)
    assert np.isfinite(measured["loss"])
    # Two moments of each trained leaf and a count; the base appears nowhere.
    sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
    assert sum(sizes) == 2 * sum(leaf.size for leaf in jax.tree.leaves(trained)) + 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        before = trained
        for key in path:
            before = before[key.key]
        moved = np.abs(leaf - before).max(axis=(1, 2)) > 0
        assert moved.tolist() == [False, True, True], jax.tree_util.keystr(path)


def test_the_whole_gradient_is_in_adapters_when_the_base_is_fixed():
    """By the same objective the base would have one: it is the split that keeps it out."""
    _, _, policy, both = adapted(SOME)
    trained, fixed = split_adapters(both)

    def total(trained, fixed):
        return (hidden_states(policy, join(trained, fixed), TOKENS, LENGTHS) ** 3).sum()

    of_trained, of_fixed = jax.jit(jax.grad(total, argnums=(0, 1)))(trained, fixed)
    assert names(of_trained) == names(trained)
    assert any(leaf.any() for leaf in jax.tree.leaves(of_trained))
    assert all(leaf.any() for leaf in jax.tree.leaves(of_fixed))


def test_a_score_head_is_trained_beside_them():
    policy, params = tiny(num_scores=2)
    _, both = with_adapters(policy, params, LoraConfig(2), jax.random.key(0))
    trained, fixed = split_adapters(both, also=("score",))
    assert "score" in trained
    assert "score" not in fixed
    again = join(trained, fixed)
    assert jax.tree.structure(again) == jax.tree.structure(both)


def test_shapes_for_a_plan():
    from prefjax.policy import abstract

    policy, _ = tiny(num_layers=3)
    with_them, shapes = with_adapters(policy, abstract(policy.config)[1], SOME, jax.random.key(0))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert jax.tree.map(lambda a, b: a.shape == b.shape, shapes, abstract(with_them.config)[1])


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(2, targets=("query",)), "'query'"),
        (LoraConfig(2, targets=()), "LoRA targets: none"),
        (LoraConfig(0), "lora.rank is 0"),
        (LoraConfig(2, layers=(0, 7)), "blocks 0 to 1"),
    ],
)
def test_adapters_that_cannot_be(lora, message):
    policy, params = tiny()
    with pytest.raises(InputError, match=message):
        with_adapters(policy, params, lora, jax.random.key(0))


def test_adapters_on_adapters_are_refused():
    policy, params = tiny()
    both = with_adapters(policy, params, LoraConfig(2), jax.random.key(0))
    with pytest.raises(InputError, match="with adapters"):
        with_adapters(*both, LoraConfig(2), jax.random.key(0))
