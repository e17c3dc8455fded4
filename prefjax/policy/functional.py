"""A policy as the rest of the library sees it: something static, and a tree of parameters."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from prefjax.checks import require
from prefjax.policy.config import DecoderConfig
from prefjax.policy.decoder import Decoder


@jax.tree_util.register_static
@dataclass(frozen=True)
class Policy:
    """What does not train: the configuration, and the module's graph without its arrays.

    Hashable and without leaves: close over it, or pass it through `jax.jit` like an array.
    """

    config: DecoderConfig
    # The graph follows from the configuration, so comparing it too would only cost time.
    graphdef: nnx.GraphDef = field(compare=False, repr=False)

    def module(self, params: PyTree) -> Decoder:
        """The Flax module with these parameters in it."""
        return nnx.merge(self.graphdef, params)


def init(config: DecoderConfig, key: Key[Array, ""]) -> tuple[Policy, PyTree]:
    """A decoder with random parameters: matrices normal with standard deviation `config.initializer_range`, norms 1.

    Args:
      config: its shape.
      key: decides every parameter.

    Returns: the policy and its parameters, nested dicts of float32 arrays under Hugging Face's names. Under
      `jax.jit` with `out_shardings` each device makes only its own part.
    """
    graphdef, state = nnx.split(Decoder(config, rngs=nnx.Rngs(params=key)))
    return Policy(config, graphdef), nnx.to_pure_dict(state)


def abstract(config: DecoderConfig) -> tuple[Policy, PyTree]:
    """The policy, and shapes in place of parameters: what to restore into, to shard, to plan with."""
    return jax.eval_shape(lambda key: init(config, key), jax.random.key(0))


def hidden_states(
    policy: Policy, params: PyTree, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B T D"]:
    """What the last layer knows after reading each token and all before it; 0 at padding.

    Args:
      policy, params: the decoder.
      tokens: right padded, [B, T].
      lengths: how many tokens of each row are real. Padding is behind what is real, so causal attention
        never sees it; what it holds does not matter.

    Returns: [B, T, D] in the policy's dtype.
    """
    b, t = tokens.shape
    place = jnp.arange(t)
    positions = jnp.broadcast_to(place[None, :], (b, t))
    causal = place[None, None, :] <= place[None, :, None]
    hidden, _ = policy.module(params)(tokens, positions, causal)
    real = place[None, :] < lengths[:, None]
    return jnp.where(real[:, :, None], hidden, 0)


def output_weights(policy: Policy, params: PyTree) -> Float[Array, "V D"]:
    """The output head: the embeddings where they are tied, `lm_head` otherwise.

    Raises: InputError for a policy with a score head, which predicts no token.
    """
    require(
        policy.config.num_scores == 0,
        "policy",
        f"a decoder with a head of {policy.config.num_scores} scores",
        "only a language model has logits and log-probabilities",
        "Load or make it with num_scores=0.",
    )
    head = params["model"]["embed_tokens"] if policy.config.tie_word_embeddings else params["lm_head"]
    return head["weight"]


def logits(policy: Policy, params: PyTree, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """Scores of every next token, float32. For [B, T, D] that is a large array: see `completion_logps`."""
    weights = output_weights(policy, params).astype(hidden.dtype)
    return jnp.einsum("...d,vd->...v", hidden, weights, preferred_element_type=jnp.float32)


def scores(
    policy: Policy, params: PyTree, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B K"]:
    """The score head at the last real token of each row: rewards, values or preferences, float32.

    Args:
      policy, params: a decoder with `num_scores` K > 0.
      tokens: right padded, [B, T].
      lengths: how many tokens of each row are real.

    Returns: [B, K].
    Raises: InputError for a policy without a score head.
    """
    require(
        policy.config.num_scores > 0,
        "policy",
        "a language model, which has no score head",
        "scores come from a decoder with num_scores > 0",
        "Load or make it with num_scores=1.",
    )
    hidden = hidden_states(policy, params, tokens, lengths)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    weights = params["score"]["weight"].astype(jnp.float32)
    return jnp.einsum("bd,kd->bk", last.astype(jnp.float32), weights)
