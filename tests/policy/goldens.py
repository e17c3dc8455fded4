"""Where the goldens lie, and a tiny decoder for the other tests."""

import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from prefjax.policy import DecoderConfig, abstract, hidden_states, logits

GOLDENS = Path(__file__).parents[1] / "goldens" / "policy"
LLAMAS = ("tied", "untied")
FAMILIES = ("llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


def expected(name):
    """Tokens, lengths and the logits of transformers."""
    stored = np.load(GOLDENS / name / "expected.npz")
    tokens, lengths = (jnp.asarray(stored[key], jnp.int32) for key in ("tokens", "lengths"))
    return tokens, lengths, stored["logits"]


def stored_tensors(directory):
    """Every tensor of a directory, by the name it has there."""
    return {
        k: v for path in sorted(Path(directory).glob("*.safetensors")) for k, v in load_file(path).items()
    }


def classifier_of(name, directory):
    """The classifier that transformers made of a family's language model, as a directory."""
    directory.mkdir()
    shutil.copyfile(GOLDENS / name / "classifier.json", directory / "config.json")
    tensors = stored_tensors(GOLDENS / name)
    tensors.pop("lm_head.weight", None)
    tensors["score.weight"] = np.load(GOLDENS / name / "expected.npz")["score"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def config_fields(directory):
    return json.loads((Path(directory) / "config.json").read_text())


@cache
def tiny(seed=0, scale=8.0, **changes):
    """A decoder far from uniform: its matrices are `scale` times larger."""
    shape = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24, "num_layers": 2}
    config = DecoderConfig(**{**shape, "num_heads": 4, "num_kv_heads": 2, **changes})
    policy, shapes = abstract(config)
    draws = np.random.default_rng([seed, 0])  # not by init, which takes seconds to compile

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            return jnp.full(leaf.shape, 0.0 if config.norm_offset else 1.0)
        if "bias" in name or "lora_B" in name:
            return jnp.zeros(leaf.shape)
        return jnp.asarray(draws.normal(0, scale * config.initializer_range, leaf.shape), jnp.float32)

    return policy, jax.tree_util.tree_map_with_path(draw, shapes)


@jax.jit
def all_logits(policy, params, tokens, lengths):
    """[B, T, V], the plain way."""
    return logits(policy, params, hidden_states(policy, params, tokens, lengths))


def next_logits(policy, params, prefix):
    """After a whole prefix, read at once and without a cache."""
    padded = jnp.zeros((1, 16), jnp.int32).at[0, : len(prefix)].set(jnp.array(prefix))
    return np.asarray(all_logits(policy, params, padded, jnp.array([len(prefix)])))[0, len(prefix) - 1]
