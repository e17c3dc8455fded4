"""A policy as the rest of the library sees it: something static, and a tree of parameters."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from prefjax.checks import require
from prefjax.policy.config import DecoderConfig
from prefjax.policy.decoder import Decoder, Places


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


def in_compute_dtype(policy: Policy, params: PyTree) -> PyTree:
    """Matrices in the dtype that they are multiplied in; norm scales stay, since norms are taken in float32.

    For parameters that are read often or kept frozen: results are the same, half the memory in bfloat16.
    """
    dtype = jnp.dtype(policy.config.dtype)

    def cast(path, leaf):
        return leaf if "norm" in str(path[-2].key) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


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
    place = jnp.arange(tokens.shape[1])[None, :]
    hidden = policy.module(params)(tokens, Places(place))
    return jnp.where((place < lengths[:, None])[:, :, None], hidden, 0)


def placed_hidden_states(
    policy: Policy, params: PyTree, tokens: Int[Array, "B T"], at: Places
) -> Float[Array, "B T D"]:
    """`hidden_states` of rows that hold several sequences, or branches of one; 0 where `at.groups` is -1."""
    hidden = policy.module(params)(tokens, at)
    return hidden if at.groups is None else jnp.where((at.groups >= 0)[:, :, None], hidden, 0)


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
    z = jnp.einsum("...d,vd->...v", hidden, weights, preferred_element_type=jnp.float32)
    cap = policy.config.logit_softcap
    return z if cap is None else cap * jnp.tanh(z / cap)


def token_scores(
    policy: Policy, params: PyTree, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]
) -> Float[Array, "B T K"]:
    """The score head after every token, float32; see `scores`. 0 at padding."""
    hidden = hidden_states(policy, params, tokens, lengths)
    return _score(policy, params, hidden)


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
    hidden = hidden_states(policy, params, tokens, lengths)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    return _score(policy, params, last)


def _score(policy: Policy, params: PyTree, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch K"]:
    require(
        policy.config.num_scores > 0,
        "policy",
        "a language model, which has no score head",
        "scores come from a decoder with num_scores > 0",
        "Load or make it with num_scores=1.",
    )
    weights = params["score"]["weight"].astype(jnp.float32)
    return jnp.einsum("...d,kd->...k", hidden.astype(jnp.float32), weights)
