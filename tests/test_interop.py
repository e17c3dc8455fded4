"""A loss needs nothing of ours: training loops of others, in which `prefjax.losses` is all there is of prefjax."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from prefjax.losses import dpo_loss, ppo_clip_loss
from prefjax.types import Weighted

ROOT = Path(__file__).parents[1]
VOCABULARY, WIDTH = 12, 32
PROMPT, COMPLETION = 3, 4  # tokens
WANTED = 3  # the token that rewards are paid for


# ------------------------------------------------------------------ what the loops share: rows, and a gather


def preferences(key, pairs: int = 32):
    """Prompts of random tokens, then [B, T] rows: chosen ones count up from the last token, rejected ones down."""
    prompts = jax.random.randint(key, (pairs, PROMPT), 0, VOCABULARY)
    steps = jnp.arange(1, COMPLETION + 1)[None, :]
    return [
        jnp.concatenate([prompts, (prompts[:, -1:] + sign * steps) % VOCABULARY], axis=1) for sign in (1, -1)
    ]


def completion_logps(logits, tokens):
    """Log-probabilities [B, COMPLETION] of the tokens after the prompt."""
    logps = jax.nn.log_softmax(logits[:, PROMPT - 1 : -1])
    return jnp.take_along_axis(logps, tokens[:, PROMPT:, None], axis=-1)[..., 0]


def prefer(apply, params, optimizer, steps: int) -> dict:
    """DPO in a loop of plain Optax; `apply(params, tokens[B, T]) -> logits[B, T, V]` is any model at all."""
    pairs = preferences(jax.random.key(1))

    def logps(params):
        return [completion_logps(apply(params, tokens), tokens).sum(axis=-1) for tokens in pairs]

    reference = logps(params)

    def objective(params):
        chosen, rejected = (ours - theirs for ours, theirs in zip(logps(params), reference, strict=True))
        return dpo_loss(chosen, rejected, beta=0.5).mean(), chosen - rejected

    @jax.jit
    def step(params, state):
        (loss, margins), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, margins

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, loss, _ = step(params, state)
        losses.append(float(loss))
    *_, margins = step(params, state)
    return {"losses": losses, "least_margin": float(margins.min())}


def reinforce(apply, params, optimizer, steps: int) -> dict:
    """GRPO by hand: a group of samples for each prompt, its z-scores as advantages, two clipped updates a group."""
    prompts = jax.random.randint(jax.random.key(2), (4, PROMPT), 0, VOCABULARY)
    rows = jnp.repeat(prompts, 8, axis=0)  # groups of 8

    def draw(params, key):
        tokens = jnp.concatenate([rows, jnp.zeros((len(rows), COMPLETION), rows.dtype)], axis=1)
        for place, one in enumerate(jax.random.split(key, COMPLETION), start=PROMPT):
            drawn = jax.random.categorical(one, apply(params, tokens)[:, place - 1])
            tokens = tokens.at[:, place].set(drawn)
        return tokens

    def objective(params, tokens, behaviour, advantages):
        # Token 0 ends a completion: what follows it is padding.
        ended = jnp.cumsum(tokens[:, PROMPT:] == 0, axis=1) - (tokens[:, PROMPT:] == 0)
        each = ppo_clip_loss(
            completion_logps(apply(params, tokens), tokens),
            behaviour,
            jnp.broadcast_to(advantages[:, None], behaviour.shape),
        )
        halves = [Weighted.sequences(each[part], ended[part] == 0) for part in (slice(16), slice(16, None))]
        return jax.tree.map(jnp.add, *halves).mean()

    @jax.jit
    def step(params, state, key):
        tokens = draw(params, key)
        behaviour = completion_logps(apply(params, tokens), tokens)
        rewards = jnp.mean(tokens[:, PROMPT:] == WANTED, axis=1).reshape(-1, 8)
        centred = rewards - rewards.mean(axis=1, keepdims=True)
        advantages = (centred / (rewards.std(axis=1, keepdims=True) + 1e-4)).reshape(-1)
        losses = []
        for _ in range(2):
            loss, grads = jax.value_and_grad(objective)(params, tokens, behaviour, advantages)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(loss)
        return params, state, rewards.mean(), jnp.stack(losses)

    state, rewards, losses = optimizer.init(params), [], []
    for key in jax.random.split(jax.random.key(3), steps):
        params, state, reward, pair = step(params, state, key)
        rewards.append(float(reward))
        losses.append(pair.tolist())
    return {"rewards": rewards, "losses": losses}


# ------------------------------------------------------------------ the models: nobody's, a dataclass's, theirs


def optax_only() -> dict:
    """A language model as a dictionary of arrays."""

    def drawn(key, shape):
        return jax.random.normal(key, shape) / shape[0] ** 0.5

    shapes = {"embed": (VOCABULARY, WIDTH), "hidden": (2 * WIDTH, WIDTH), "head": (WIDTH, VOCABULARY)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {name: drawn(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def apply(params, tokens):
        here = params["embed"][tokens]
        before = jnp.cumsum(here, axis=1) / jnp.arange(1, tokens.shape[1] + 1)[None, :, None]
        both = jnp.concatenate([here, before], axis=-1)
        return jnp.tanh(both @ params["hidden"]) @ params["head"]

    return prefer(apply, params, optax.adam(1e-2), steps=40)


def dataclass_module() -> dict:
    """The same as a module in Equinox's style: a frozen dataclass that is a pytree, and is called."""

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Model:
        embed: jax.Array
        head: jax.Array

        def __call__(self, tokens):
            here = self.embed[tokens]
            before = jnp.cumsum(here, axis=1) / jnp.arange(1, tokens.shape[1] + 1)[None, :, None]
            return jnp.tanh(here + before) @ self.head

    keys = jax.random.split(jax.random.key(0))
    model = Model(
        0.5 * jax.random.normal(keys[0], (VOCABULARY, WIDTH)),
        0.1 * jax.random.normal(keys[1], (WIDTH, VOCABULARY)),
    )
    return reinforce(lambda model, tokens: model(tokens), model, optax.adam(3e-2), steps=40)


def equinox_module() -> dict:
    """Equinox's own layers, and its split of a module into arrays and the rest."""
    import equinox as eqx

    class Model(eqx.Module):
        embed: eqx.nn.Embedding
        cell: eqx.nn.GRUCell
        head: eqx.nn.MLP

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.embed = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
            self.cell = eqx.nn.GRUCell(WIDTH, WIDTH, key=keys[1])
            self.head = eqx.nn.MLP(WIDTH, VOCABULARY, WIDTH, depth=1, key=keys[2])

        def __call__(self, tokens):
            def read(state, token):
                state = self.cell(self.embed(token), state)
                return state, self.head(state)

            return jax.lax.scan(read, jnp.zeros(WIDTH), tokens)[1]

    params, static = eqx.partition(Model(jax.random.key(0)), eqx.is_inexact_array)

    def apply(params, tokens):
        return jax.vmap(eqx.combine(params, static))(tokens)

    return {
        **prefer(apply, params, optax.adam(1e-2), steps=40),
        "rewards": reinforce(apply, params, optax.adam(1e-2), steps=40)["rewards"],
    }


def tunix_model() -> dict:
    """Tunix's Qwen 3, trained by Flax's own optimiser as Tunix trains it."""
    from flax import nnx
    from tunix.models.qwen3 import model as qwen3

    config = qwen3.ModelConfig(
        num_layers=2, vocab_size=VOCABULARY, embed_dim=WIDTH, hidden_dim=64, num_heads=4, head_dim=8,
        num_kv_heads=2, rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=True,
    )  # fmt: skip
    model, reference = (qwen3.Qwen3(config, rngs=nnx.Rngs(0)) for _ in range(2))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    pairs = preferences(jax.random.key(1))

    def logratio(model, reference, tokens):
        batch, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
        causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool))[None], (batch, length, length))
        ours, theirs = (
            completion_logps(each(tokens, positions, None, causal)[0], tokens).sum(axis=-1)
            for each in (model, reference)
        )
        return ours - jax.lax.stop_gradient(theirs)

    def objective(model, reference):
        chosen, rejected = (logratio(model, reference, tokens) for tokens in pairs)
        return dpo_loss(chosen, rejected, beta=0.5).mean(), chosen - rejected

    @nnx.jit
    def step(model, optimizer, reference):
        (loss, margins), grads = nnx.value_and_grad(objective, has_aux=True)(model, reference)
        optimizer.update(model, grads)
        return loss, margins

    told = [step(model, optimizer, reference) for _ in range(40)]
    return {"losses": [float(loss) for loss, _ in told], "least_margin": float(told[-1][1].min())}


# ------------------------------------------------------------------ each in a process of its own, where all can be seen


def alone(name: str) -> dict:
    """Runs one of the loops above, and adds which rooms of prefjax its process has loaded."""
    program = f"""
import json, sys
from tests import test_interop
told = test_interop.{name}()
told["rooms"] = sorted({{name.split(".")[1] for name in sys.modules if name.startswith("prefjax.")}})
print(json.dumps(told))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    # No policy, no train, no data: mathematics alone (`losses` stands on `rewards`).
    assert set(told["rooms"]) == {"types", "checks", "losses", "rewards"}
    return told


def assert_preferred(told: dict) -> None:
    assert told["losses"][0] == pytest.approx(0.6931472, abs=1e-6)  # policy = reference
    assert told["losses"][-1] < 0.1
    assert told["least_margin"] > 0  # of every pair


def assert_rewarded(rewards: list) -> None:
    assert rewards[0] < 0.3  # chance is 1/12
    assert sum(rewards[-5:]) / 5 > 0.8


def test_dpo_on_a_dictionary_of_arrays():
    assert_preferred(alone("optax_only"))


def test_ppo_clip_on_a_module_in_the_style_of_equinox():
    told = alone("dataclass_module")
    assert_rewarded(told["rewards"])
    # At ratio 1 the surrogate is -A, whose mean over a group is 0; averages over sequences keep that.
    assert all(first == pytest.approx(0.0, abs=1e-5) for first, _ in told["losses"])


@pytest.mark.oracle
def test_both_on_modules_of_equinox():
    told = alone("equinox_module")
    assert_preferred(told)
    assert_rewarded(told["rewards"])


@pytest.mark.oracle
def test_dpo_on_a_model_of_tunix():
    assert_preferred(alone("tunix_model"))
