"""Schedules and optimisers against their equations, and against torch and transformers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.train import make_optimizer, make_schedule
from prefjax.train.optimizer import decayed

# Of Llama, Qwen, Gemma, a value head and an adapter, as they are stacked: name, shape, whether it is decayed.
PARAMETERS = [
    ("model.embed_tokens.weight", (9, 4), True),
    ("model.layers.self_attn.q_proj.weight", (2, 4, 4), True),
    ("model.layers.self_attn.q_proj.bias", (2, 4), False),
    ("model.layers.self_attn.q_proj.lora_A.weight", (2, 1, 4), True),
    ("model.layers.self_attn.q_norm.weight", (2, 2), False),
    ("model.layers.mlp.down_proj.weight", (2, 4, 8), True),
    ("model.layers.input_layernorm.weight", (2, 4), False),
    ("model.layers.post_feedforward_layernorm.weight", (2, 4), False),
    ("model.norm.weight", (4,), False),
    ("lm_head.weight", (9, 4), True),
    ("score.weight", (1, 4), True),
    ("value.bias", (1,), False),
]  # fmt: skip


def nested(values):
    """`{"a.b": x}` → `{"a": {"b": x}}`."""
    tree: dict = {}
    for name, value in values.items():
        *path, last = name.split(".")
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return tree


def test_decay_goes_by_name():
    params = nested({name: jnp.zeros(shape) for name, shape, _ in PARAMETERS})
    assert decayed(params) == nested({name: decays for name, _, decays in PARAMETERS})
    assert decayed(jnp.zeros(3)) is True  # nothing is known of it
    assert decayed({"normal": 0.0, "Norm": [0.0], "lm_head": {"weight": None, "bias": 0.0}}) == {
        "normal": True,
        "Norm": [False],
        "lm_head": {"weight": None, "bias": False},
    }


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd"])
def test_only_what_decays_decays(name):
    params = nested({name: jnp.full(shape, 2.0) for name, shape, _ in PARAMETERS})
    rate, decay = 0.125, 0.25
    optimizer = make_optimizer(
        make_schedule(rate, steps=9), optimizer=name, weight_decay=decay, clip_norm=0.0
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, jax.jit(optimizer.init)(params), params)
    for leaf, decays in zip(jax.tree.leaves(updates), jax.tree.leaves(decayed(params)), strict=True):
        np.testing.assert_allclose(leaf, -rate * decay * 2.0 * decays, rtol=1e-6)


@pytest.mark.parametrize(("name", "first"), [("adafactor", 1.0), ("lion", 1.0), ("sgd", 3.0)])
def test_first_steps_of_the_others_by_hand(name, first):
    # Adafactor divides by |g|, Lion takes the sign, SGD takes g.
    params, rate = {"w": jnp.ones((2, 2))}, 0.1
    optimizer = make_optimizer(make_schedule(rate, steps=1), optimizer=name, clip_norm=0.0)
    updates, _ = optimizer.update({"w": jnp.full((2, 2), 3.0)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -rate * first, rtol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_schedules(name, warmup):
    peak, total = 0.3, 20
    schedule = make_schedule(peak, schedule=name, warmup_steps=warmup, steps=total)
    for t in range(total):
        if t < warmup:
            expected = peak * t / warmup
        else:
            progress = (t - warmup) / (total - warmup)
            expected = (
                peak
                * {"constant": 1, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[
                    name
                ]
            )
        assert float(schedule(t)) == pytest.approx(expected, abs=1e-7)


def test_warmup_longer_than_the_run():
    with pytest.raises(InputError, match="warmup"):
        make_schedule(1.0, warmup_steps=9, steps=5)


def test_one_step_of_adamw_by_hand():
    params = {"matrix": jnp.full((2, 2), 2.0), "norm": jnp.full(3, 2.0)}
    grads = {"matrix": jnp.full((2, 2), 3.0), "norm": jnp.full(3, 4.0)}
    rate, decay, clip = 0.1, 0.5, 1.0
    optimizer = make_optimizer(make_schedule(rate, steps=1), weight_decay=decay, clip_norm=clip)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    scale = clip / math.sqrt(4 * 9 + 3 * 16)
    # After bias correction the first step is g / (|g| + ε), whatever the betas; only the matrix decays.
    adam = {k: float(v.ravel()[0]) * scale / (float(v.ravel()[0]) * scale + 1e-8) for k, v in grads.items()}
    np.testing.assert_allclose(updates["matrix"], -rate * (adam["matrix"] + decay * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["norm"], -rate * adam["norm"], rtol=1e-5)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["adamw", "adafactor", "sgd"])
def test_ten_steps_as_torch_and_transformers_take_them(name):
    import torch
    from transformers.optimization import Adafactor

    rng = np.random.default_rng(0)
    start = rng.normal(size=(130, 140)).astype(np.float32)  # large enough for Optax to factor
    grads = rng.normal(size=(10, 130, 140)).astype(np.float32)
    rate, decay = 0.01, 0.1
    theirs = torch.nn.Parameter(torch.tensor(start))
    peer = {
        "adamw": lambda: torch.optim.AdamW([theirs], lr=rate, weight_decay=decay),
        "adafactor": lambda: Adafactor(
            [theirs], lr=rate, scale_parameter=False, relative_step=False, weight_decay=decay
        ),
        "sgd": lambda: torch.optim.SGD([theirs], lr=rate, weight_decay=decay),
    }[name]()
    optimizer = make_optimizer(
        make_schedule(rate, steps=10), optimizer=name, weight_decay=decay, clip_norm=0.0
    )
    ours = {"w": jnp.asarray(start)}
    state = optimizer.init(ours)
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        peer.step()
        updates, state = optimizer.update({"w": jnp.asarray(grad)}, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    moved = np.abs(theirs.detach().numpy() - start).max()
    np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), atol=2e-5 * moved)


@pytest.mark.oracle
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3"])
def test_decay_is_that_of_transformers(family):
    import torch
    import transformers
    from transformers import Trainer

    sizes = {
        "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    text = "TextConfig" if family == "Gemma3" else "Config"
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, family + text)(**sizes))
    theirs = set(Trainer.get_decay_parameter_names(None, model))
    ours = {name: decayed(nested({name: 0.0})) for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {name for name, tree in ours.items() if jax.tree.leaves(tree)[0]} == theirs
