"""The models that were written for everybody, as Tunix's own Qwen 3."""

import jax.numpy as jnp
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3.params import create_model_from_safe_tensors

from experiments.benchmarks.shapes import Shape


def load(directory: str, shape: Shape) -> qwen3.Qwen3:
    config = qwen3.ModelConfig(
        num_layers=shape.num_layers,
        vocab_size=shape.vocab_size,
        embed_dim=shape.hidden_size,
        hidden_dim=shape.intermediate_size,
        num_heads=shape.num_heads,
        head_dim=shape.head_dim,
        num_kv_heads=shape.num_kv_heads,
        rope_theta=int(shape.rope_theta),
        norm_eps=shape.rms_norm_eps,
        use_tied_embedding=True,
    )
    return create_model_from_safe_tensors(directory, config, dtype=jnp.float32)
