"""A rollout: several completions of each prompt, drawn by the policy, and where their rewards come from.

rows     [M, B*G, ...]   M microbatches one after another; the G completions of a prompt are neighbours
"index", "weight"        of the prompt; weight 0 is a row that only fills a batch
"completion"             tokens, prompt_lengths, lengths, behaviour_logps [.., C], stopped
"reward"                 what each is worth; nan where that could not be computed
"statistics"             numbers of the whole step, repeated for every row, that an objective logs
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from prefjax.align.best_of_n import round_robin
from prefjax.align.judges import rewards
from prefjax.align.rows import only_rows
from prefjax.checks import require
from prefjax.policy import Policy, completion_logps, sample
from prefjax.types import Scalar


def rollout(
    policy: Policy,
    *,
    num_samples: int,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Callable:
    """`params, batch of prompts, key -> batch`: G = `num_samples` completions of each prompt.

        yᵢ ~ π(·|x),   i = 1 … G,   tokens drawn at `temperature`

    Row b of the whole batch takes the key `fold_in(key, b)`, and its completion i the key `fold_in(·, i)`: neither
    microbatches nor devices change a draw. `behaviour_logps` are those of π at this temperature, over the whole
    vocabulary: where top-k or top-p left tokens out they are computed again, as in TRL, so that a ratio to them is 1
    until the policy moves.

    Raises: InputError for no sample, or for temperature 0, at which nothing is learned by sampling.
    """
    require(num_samples >= 1, "rollout", f"num_samples is {num_samples}", "it is at least 1", "Change it.")
    require(temperature > 0, "rollout", f"temperature is {temperature}", "it is positive", "Change it.")
    filtered = top_k != 0 or top_p != 1

    def roll(params: PyTree, batch: dict, key: Key[Array, ""]) -> dict:
        def one(microbatch_and_number):
            microbatch, number = microbatch_and_number
            prompts = repeated(microbatch["prompt"], num_samples)
            samples = sample(
                policy, params, prompts["tokens"], prompts["lengths"],
                row_keys(key, number, microbatch["index"].shape[0], num_samples),
                max_new_tokens=max_new_tokens, stop_tokens=stop_tokens,
                temperature=temperature, top_k=top_k, top_p=top_p,
            )  # fmt: skip
            rows = {
                "tokens": samples.tokens,
                "prompt_lengths": samples.prompt_lengths,
                "lengths": samples.lengths,
            }
            logps = samples.logps
            if filtered:
                logps = _logps(policy, params, rows, max_new_tokens, temperature)
            return {
                **repeated({name: microbatch[name] for name in ("index", "weight")}, num_samples),
                "completion": {
                    **rows,
                    "behaviour_logps": logps,
                    "stopped": samples.stopped.astype(jnp.float32),
                },
            }

        return jax.lax.map(one, (batch, jnp.arange(batch["index"].shape[0])))

    return roll


def row_keys(
    key: Key[Array, ""], microbatch: Int[Array, ""], rows: int, num_samples: int
) -> Key[Array, " rows"]:
    """A key for each completion of a microbatch, named by the number of its prompt in the whole batch."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    prompts = fold(key, microbatch * rows + jnp.arange(rows))
    return jax.vmap(fold, in_axes=(0, None))(prompts, jnp.arange(num_samples)).reshape(-1)


def repeated(tree: PyTree, times: int) -> PyTree:
    """[B, ...] → [B*G, ...]: every row G times, one beside the other, on the device that has the row."""

    def repeat(leaf):
        return jnp.broadcast_to(leaf[:, None], (leaf.shape[0], times, *leaf.shape[1:])).reshape(
            -1, *leaf.shape[1:]
        )

    return jax.tree.map(repeat, tree)


def add_logps(policy: Policy, *, name: str, max_new_tokens: int, temperature: float = 1.0) -> Callable:
    """`params, batch -> batch` with token log-probabilities under these parameters, as `completion[name]` [M, B, C].

    `name="reference_logps"` of the reference, for a price of KL. `name="behaviour_logps"` of the policy before its
    first update, for rows that something else has sampled.
    """

    def add(params: PyTree, batch: dict) -> dict:
        def one(rows):
            return _logps(policy, params, rows, max_new_tokens, temperature)

        logps = jax.lax.map(one, only_rows(batch["completion"]))
        return {**batch, "completion": {**batch["completion"], name: logps}}

    return add


def model_rewards(policy: Policy) -> Callable:
    """`params, batch -> batch` with `reward` [M, B*G]: r(x, y) of a reward model."""

    def add(params: PyTree, batch: dict) -> dict:
        def one(rows):
            return rewards(policy, params, rows)

        return {**batch, "reward": jax.lax.map(one, only_rows(batch["completion"]))}

    return add


def judge_rewards(judge: Callable, *, num_samples: int) -> Callable:
    """`judge_params, batch -> batch` with `reward` [M, B*G]: the mean preference over the other completions.

        rᵢ = 1/(G - 1) Σⱼ≠ᵢ P(yᵢ ≻ yⱼ | x)

    Every pair is judged once. The mean of a group is 1/2.
    Raises: InputError for a group of one, which has nobody to be compared with.
    """
    require(
        num_samples >= 2, "judge_rewards", f"num_samples is {num_samples}", "it is at least 2", "Change it."
    )

    def add(judge_params: PyTree, batch: dict) -> dict:
        def one(rows):
            # [B*G, ...] → [G, B, ...]
            candidates = jax.tree.map(lambda leaf: jnp.moveaxis(grouped(leaf, num_samples), 1, 0), rows)
            table = round_robin(judge, judge_params, candidates)
            others = (jnp.sum(table, axis=1) - 0.5) / (num_samples - 1)  # without the diagonal, which is 1/2
            return others.T.reshape(-1)

        return {**batch, "reward": jax.lax.map(one, only_rows(batch["completion"]))}

    return add


def grouped(leaf: Shaped[Array, "N ..."], num_samples: int) -> Shaped[Array, "B G ..."]:
    """[B*G, ...] → [B, G, ...]."""
    return leaf.reshape(-1, num_samples, *leaf.shape[1:])


def weighted_rewards(
    rewards: Float[Array, "*batch F"], weights: Float[Array, " F"] | None = None
) -> Float[Array, "*batch"]:
    """Σ_f w_f R_f of F reward functions; a function that gave nan takes no part, and where all did the sum is nan.

    As TRL's `reward_weights`; 1 each unless given.
    """
    weights = jnp.ones(rewards.shape[-1]) if weights is None else jnp.asarray(weights)
    weights = jnp.broadcast_to(weights, rewards.shape)
    absent = jnp.isnan(rewards)
    total = jnp.sum(jnp.where(absent, 0.0, rewards) * weights, axis=-1)
    return jnp.where(jnp.all(absent, axis=-1), jnp.nan, total)


def missing_stop_penalty(stopped: Float[Array, "*batch"], *, penalty: Scalar) -> Float[Array, "*batch"]:
    """-penalty, to be added to a reward, where a completion ran out of room; TRL's `missing_eos_penalty`."""
    return -penalty * (1.0 - stopped)


def _logps(policy, params, rows, max_new_tokens, temperature) -> Float[Array, "B C"]:
    return completion_logps(
        policy, params, rows["tokens"], rows["prompt_lengths"], rows["lengths"],
        max_completion=max_new_tokens, temperature=temperature,
    )[0]  # fmt: skip
