"""Nash-MD-PG: a policy learns against the geometric mixture of itself and the reference."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from prefjax.align.rows import Rows, completion_lengths, summed_logps
from prefjax.losses import nash_md_loss
from prefjax.policy import Mixture, Policy, Samples, sample
from prefjax.types import Weighted


def rows_of(samples: Samples) -> Rows:
    """What was sampled, as rows."""
    return {"tokens": samples.tokens, "prompt_lengths": samples.prompt_lengths, "lengths": samples.lengths}


def nash_md_rollout(
    policy: Policy,
    judge: Callable,
    *,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    mixture_coef: float = 0.125,
    temperature: float = 1.0,
) -> Callable:
    """`params, reference_params, judge_params, batch of prompts, key -> batch` for `nash_md_objective`.

        y  ~ π(·|x)
        y' ~ π^mix(·|x),   π^mix(yₜ|·) ∝ π(yₜ|·)^(1-c) μ(yₜ|·)^c  token by token, c = mixture_coef
        P(y ≻ y' | x)     from the judge

    c = 0 is self-play, c = 1 the best response to the reference; the paper's best range is 0.125 to 0.375.
    Leaves are [M, B, ...], one microbatch after another.
    Source: Munos et al., "Nash Learning from Human Feedback", 2023, section 7 (arXiv:2312.00886).
    """

    def rollout(
        params: PyTree, reference_params: PyTree, judge_params: PyTree, batch: dict, key: Key[Array, ""]
    ):
        def one(microbatch_and_index):
            microbatch, index = microbatch_and_index
            prompts = microbatch["prompt"]
            # A key for each row of the whole batch: how it is cut into microbatches does not change a draw.
            row = index * prompts["lengths"].shape[0] + jnp.arange(prompts["lengths"].shape[0])
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, row)
            own_keys, other_keys = (
                jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, who) for who in (0, 1)
            )

            def draw(keys, mixture):
                return sample(
                    policy, params, prompts["tokens"], prompts["lengths"], keys,
                    max_new_tokens=max_new_tokens, temperature=temperature, stop_tokens=stop_tokens, mixture=mixture,
                )  # fmt: skip

            own = draw(own_keys, None)
            other = draw(other_keys, Mixture(reference_params, mixture_coef))
            reference_logp = summed_logps(
                policy, reference_params, rows_of(own), max_completion=max_new_tokens
            )
            return {
                "index": microbatch["index"],
                "weight": microbatch["weight"],
                "completion": {
                    **rows_of(own),
                    "behaviour_logp": jnp.sum(own.logps * own.mask, axis=-1),
                    "reference_logp": reference_logp,
                    "stopped": own.stopped.astype(jnp.float32),
                },
                "preference": judge(judge_params, rows_of(own), rows_of(other)),
            }

        return jax.lax.map(one, (batch, jnp.arange(batch["index"].shape[0])))

    return rollout


def nash_md_objective(policy: Policy, *, beta: float, max_new_tokens: int) -> Callable:
    """`params, batch, key -> dict of Weighted`: the surrogate whose gradient is the Nash-MD-PG estimate.

    `ratio` is exp(log π - log π_sampler): exactly on-policy it is 1. `kl` is the mean of log π - log μ.
    """

    def objective(params: PyTree, batch: dict, key) -> dict[str, Weighted]:
        del key
        rows = batch["completion"]
        logp = summed_logps(policy, params, rows, max_completion=max_new_tokens)
        # A row of weight 0 is absent also from the gradient, where 0 times nan would be nan.
        absent = batch["weight"] == 0
        reference_logp = jnp.where(absent, 0.0, rows["reference_logp"])
        preference = jnp.where(absent, 0.5, batch["preference"])
        return {
            name: Weighted.of(values, batch["weight"])
            for name, values in {
                "logps": logp,
                "ratio": jnp.exp(logp - rows["behaviour_logp"]),
                "kl": logp - reference_logp,
                "preference": preference,
                "completions/length": completion_lengths(rows),
                "completions/stopped": rows["stopped"],
                "loss": nash_md_loss(logp, reference_logp, preference, beta=beta),
            }.items()
        }

    return objective
