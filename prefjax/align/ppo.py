"""PPO with a value head: a critic on the policy's own trunk, and several updates from one rollout.

Parameters are {"policy": …, "value": {"weight" [1, D], "bias" [1]}}. The value of a token's state is read off the
hidden state that the token is predicted from, so one pass serves both heads. A step is

    rollout (num_samples=1, of params["policy"]) → rewards → add_ppo_advantages → ppo_updates → objective

The end of a completion is the end of the episode, whether it stopped or ran out of room: its value is 0, as in TRL.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from prefjax.align.advantages import (
    add_statistics,
    learned_rows,
    present_rewards,
    rollout_metrics,
    rollout_statistics,
    token_mask,
)
from prefjax.align.grpo import clip_regions
from prefjax.align.rows import only_rows
from prefjax.checks import require
from prefjax.losses import ppo_clip_loss, value_loss
from prefjax.policy import (
    Policy,
    Predictions,
    hidden_states,
    predicted_logps_and_entropies,
    predictions,
)
from prefjax.returns import generalized_advantage_estimation, whitened
from prefjax.rewards import kl_shaped_rewards
from prefjax.types import Weighted


def with_value_head(policy: Policy, params: PyTree) -> PyTree:
    """{"policy": params, "value": …}, with a head that says 0 of every state until it has learned."""
    width = policy.config.hidden_size
    return {"policy": params, "value": {"weight": jnp.zeros((1, width)), "bias": jnp.zeros(1)}}


def predicted_values(value_params: PyTree, at: Predictions) -> Float[Array, "B C"]:
    """V of the state before each completion token, float32, 0 where there is none."""
    values = jnp.einsum("bcd,kd->bck", at.hidden.astype(jnp.float32), value_params["weight"])[..., 0]
    return jnp.where(at.mask > 0, values + value_params["bias"][0], 0.0)


def add_ppo_advantages(
    policy: Policy,
    *,
    max_new_tokens: int,
    beta: float = 0.05,
    gamma: float = 1.0,
    lambda_: float = 0.95,
    whiten_rewards: bool = False,
) -> Callable:
    """`params, batch -> batch` with `values`, `returns` and `advantages` [M, B, C] of every token.

        rₜ = -β (log π_b(yₜ|·) - log π₀(yₜ|·)) + [t is the last token] R
        Aₜ = generalised advantage estimate of r and V;   return = Aₜ + V(sₜ);   then A whitened over all tokens

    Needs `reward` and, unless β = 0, `reference_logps`. A row whose reward is nan is learned from no more than one
    of weight 0. Whitening is over the whole rollout, before it is cut into updates.

    Args:
      beta, gamma, lambda_: TRL's `kl_coef`, `gamma`, `lam`.
      whiten_rewards: divide rewards of tokens by their standard deviation over the rollout (their mean stays).

    Source: Schulman et al., 2017 (arXiv:1707.06347); rewards as in Ouyang et al., 2022 (arXiv:2203.02155); the
      settings of TRL's PPOConfig.
    """

    def add(params: PyTree, batch: dict) -> dict:
        def values_of(rows):
            return predicted_values(params["value"], _predictions(policy, params, rows, max_new_tokens))

        # nan rewards become weight 0 here, as from here on a row takes part as a whole or not at all.
        rewards = present_rewards(batch)
        weight = jnp.where(jnp.isnan(rewards), 0.0, batch["weight"])
        rows = batch["completion"]
        present = token_mask(rows, width=max_new_tokens)
        mask = present * (weight[..., None] > 0)
        reference = rows["reference_logps"] if beta != 0 else rows["behaviour_logps"]
        shaped = kl_shaped_rewards(
            jnp.where(weight > 0, rewards, 0.0), rows["behaviour_logps"], reference, mask, beta=beta
        )
        if whiten_rewards:
            mean = jnp.sum(shaped * mask) / jnp.maximum(jnp.sum(mask), 1.0)
            shaped = jnp.where(mask > 0, whitened(shaped, mask) + mean, 0.0)
        values = jnp.where(mask > 0, jax.lax.map(values_of, only_rows(rows)), 0.0)
        # There is a next state where there is a next token.
        goes_on = jnp.pad(present[..., 1:], [(0, 0)] * (present.ndim - 1) + [(0, 1)])
        following = jnp.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, 1)])
        advantages = generalized_advantage_estimation(shaped, following, gamma * goes_on, lambda_=lambda_)
        price = jnp.sum(jnp.where(mask > 0, rows["behaviour_logps"] - reference, 0.0), axis=-1)
        batch = learned_rows({**batch, "weight": weight}, mask_truncated_completions=False)
        batch = rollout_statistics(batch)
        batch = add_statistics(batch, {"objective/kl": Weighted.of(price, weight).mean()})
        return {
            **batch,
            "completion": {
                **batch["completion"],
                "values": values,
                "returns": jnp.where(mask > 0, advantages + values, 0.0),
                "advantages": whitened(advantages, mask),
            },
        }

    return add


def ppo_updates(
    batch: dict,
    key: Key[Array, ""],
    *,
    epochs: int = 4,
    minibatches: int = 1,
    microbatches: int | None = None,
) -> dict:
    """[M, B, ...] → [U, M', b, ...]: the U = epochs · minibatches updates that one rollout is used for.

    Every epoch goes through all rows in an order of its own, which the key and the number of rows decide, and not
    how they were cut. Rows of a group are not kept together: advantages have been computed.

    Args:
      microbatches: M' of each update; M / minibatches unless given (or 1, where that is less than one).

    Raises: InputError where rows do not divide evenly.
    """
    shape = batch["weight"].shape
    rows = shape[0] * shape[1]
    microbatches = microbatches or max(shape[0] // minibatches, 1)
    require(
        rows % (minibatches * microbatches) == 0, "ppo_updates",
        f"{rows} rows in {minibatches} minibatches of {microbatches} microbatches",
        "the same number of rows in each", "Change the number of minibatches.",
    )  # fmt: skip
    orders = jax.vmap(lambda k: jax.random.permutation(k, rows))(jax.random.split(key, epochs))

    def cut(leaf):
        flat = leaf.reshape(rows, *leaf.shape[2:])
        shuffled = flat[orders.reshape(-1)]
        return shuffled.reshape(epochs * minibatches, microbatches, -1, *leaf.shape[2:])

    return jax.tree.map(cut, batch)


def ppo_objective(
    policy: Policy,
    *,
    max_new_tokens: int,
    cliprange: float = 0.2,
    cliprange_value: float = 0.2,
    vf_coef: float = 0.1,
    temperature: float = 1.0,
) -> Callable:
    """`params, batch, key -> dict of Weighted` for what `add_ppo_advantages` has finished.

        loss = mean over tokens of -min(ρₜ Aₜ, clip(ρₜ, 1 ± ε) Aₜ) + c_v Eₜ
        Eₜ = 1/2 max((V - G)², (V' + clip(V - V', ±ε_v) - G)²)

    The mean is over the tokens of a whole update. On the first update after a rollout `val/ratio` is 1.
    Source: Schulman et al., 2017, eq. 9 (arXiv:1707.06347); the settings and metrics of TRL's PPOTrainer.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows, weight = batch["completion"], batch["weight"]
        at = _predictions(policy, params, rows, max_new_tokens)
        logps, entropies = predicted_logps_and_entropies(
            policy, params["policy"], at, temperature=temperature
        )
        values = predicted_values(params["value"], at)
        mask = at.mask * weight[:, None]

        def known(name, harmless):
            return jnp.where(mask > 0, rows[name], jax.lax.stop_gradient(harmless))

        behaviour, advantages = known("behaviour_logps", logps), known("advantages", 0.0)
        old, returns = known("values", values), known("returns", values)
        losses = ppo_clip_loss(logps, behaviour, advantages, epsilon_low=cliprange, epsilon_high=cliprange)
        errors = value_loss(values, old, returns, epsilon=cliprange_value)
        log_ratio = jax.lax.stop_gradient(logps) - behaviour
        ratio = jnp.exp(log_ratio)
        clipped = clip_regions(ratio, advantages, cliprange, cliprange)["clip_ratio/region_mean"]
        moved = jnp.abs(values - old) > cliprange_value
        tokens = {
            "policy/approxkl_avg": log_ratio**2 / 2,
            "policy/clipfrac_avg": clipped.astype(jnp.float32),
            "policy/entropy_avg": entropies,
            "val/ratio": ratio,
            "val/clipfrac_avg": moved.astype(jnp.float32),
            "loss/policy_avg": losses,
            "loss/value_avg": errors,
            "loss": losses + vf_coef * errors,
        }
        return {
            **rollout_metrics(batch),
            **{name: Weighted.tokens(each, mask) for name, each in tokens.items()},
        }

    return objective


def _predictions(policy, params, rows, max_new_tokens) -> Predictions:
    hidden = hidden_states(policy, params["policy"], rows["tokens"], rows["lengths"])
    return predictions(
        hidden, rows["tokens"], rows["prompt_lengths"], rows["lengths"], max_completion=max_new_tokens
    )
