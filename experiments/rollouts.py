"""Algorithms that learn from completions drawn on the way: a sampling plan, rewards, an objective."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments.loading import Model, load_judge, load_reference, load_trained
from experiments.problems import Problem
from experiments.settings import Config
from prefjax.align import (
    PAIRED_LOSSES,
    LossType,
    add_grpo_advantages,
    add_logps,
    add_ppo_advantages,
    add_reference,
    add_rloo_advantages,
    grpo_objective,
    judge_rewards,
    keep_best,
    loss_at_start,
    model_rewards,
    nash_md_objective,
    nash_md_rollout,
    paired_objective,
    ppo_objective,
    ppo_updates,
    preference_pairs,
    rejection_objective,
    rloo_objective,
    rollout,
    with_value_head,
    xpo_objective,
    xpo_rollout,
)
from prefjax.checks import refuse


def rollout_problem(config: Config, mesh: Mesh, stop_tokens: tuple[int, ...]) -> Problem:
    """Loads what the algorithm needs and joins it to its plan and objective."""
    model = load_trained(config, mesh)
    if config.algorithm == "nash_md":
        return nash_md_problem(config, mesh, model, stop_tokens)
    plan = {
        "grpo": grpo_problem, "rloo": grpo_problem, "ppo": ppo_problem, "rejection": rejection_problem,
        "online_dpo": online_problem, "xpo": online_problem,
    }.get(config.algorithm or "")  # fmt: skip
    if plan is None:
        refuse("--algorithm", repr(config.algorithm), "one that draws completions", "See --help.")
    frozen, add_rewards = rewards_of(config, mesh)
    return plan(config, mesh, model, stop_tokens, frozen, add_rewards)


def rewards_of(config: Config, mesh: Mesh) -> tuple[dict, Callable | None]:
    """What rewards are read from, and `frozen, batch -> batch` that adds them; None where functions on the host do."""
    if config.reward_funcs:
        return {}, None
    kind, policy, judge, params = load_judge(config, mesh)
    samples = 2 if config.algorithm in ("online_dpo", "xpo") else config.group
    if kind == "reward":
        add = model_rewards(policy)
    elif config.algorithm == "ppo":
        refuse(
            "--judge",
            f"a {kind} preference model",
            "a reward model, since ppo draws one completion a prompt",
            "Use grpo.",
        )
    else:
        add = judge_rewards(judge, num_samples=samples)
    return {"judge": params}, lambda frozen, batch: add(frozen["judge"], batch)


def drawn(config: Config, model: Model, stop_tokens: tuple[int, ...], num_samples: int) -> Callable:
    return rollout(
        model.policy, num_samples=num_samples, max_new_tokens=config.max_new_tokens, stop_tokens=stop_tokens,
        temperature=config.temperature,
    )  # fmt: skip


def assembled(
    model: Model, objective: Callable, frozen: dict, roll: Callable, add_rewards: Callable | None, finish: Callable,
    **more,
) -> Problem:  # fmt: skip
    """Draw, reward, finish: with rewards on the device all in one program, else with the host in between."""

    def extend(frozen, params, key, batch):
        batch = roll(frozen, params, key, batch)
        return batch if add_rewards is None else finish(frozen, params, key, add_rewards(frozen, batch))

    if add_rewards is not None:
        return Problem(model, objective, frozen, extend, **more)
    return Problem(model, objective, frozen, extend, scored=True, finish=finish, **more)


def grpo_problem(config: Config, mesh: Mesh, model: Model, stop_tokens, frozen: dict, add_rewards) -> Problem:
    """GRPO and its relatives, and RLOO."""
    draw = drawn(config, model, stop_tokens, config.group)
    if config.price:
        frozen = {**frozen, "reference": load_reference(config, mesh, model)}
    add_reference_logps = add_logps(
        model.policy,
        name="reference_logps",
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )
    common: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens, "epsilon": config.epsilon, "epsilon_high": config.epsilon_high,
        "temperature": config.temperature,
    }  # fmt: skip
    if config.algorithm == "rloo":
        add_advantages = add_rloo_advantages(
            num_samples=config.group,
            beta=config.price,
            mask_truncated_completions=config.mask_truncated_completions,
        )
        objective = rloo_objective(model.policy, **{**common, "epsilon": config.clip[0]})
    else:
        add_advantages = add_grpo_advantages(
            num_samples=config.group, scale_rewards=config.scale_rewards,
            mask_truncated_completions=config.mask_truncated_completions,
        )  # fmt: skip
        objective = grpo_objective(
            model.policy, loss_type=cast(LossType, config.which_loss), beta=config.price,
            importance_sampling_level=config.level, **common,
        )  # fmt: skip

    def finish(frozen, params, key, batch):
        if config.price:
            batch = add_reference_logps(frozen["reference"], batch)
        return add_advantages(batch)

    again = config.iterations

    def arrange(batch, key):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (again, *leaf.shape)), batch)

    start = {"ratio": 1.0}
    if config.price and config.reference == config.model:
        start["kl"] = 0.0
    return assembled(
        model, objective, frozen, lambda frozen, params, key, batch: draw(params, batch, key), add_rewards, finish,
        arrange=arrange if again > 1 else None, updates=again, at_start=start,
    )  # fmt: skip


def ppo_problem(config: Config, mesh: Mesh, model: Model, stop_tokens, frozen: dict, add_rewards) -> Problem:
    """PPO: the trained tree gets a value head beside the policy."""
    policy = model.policy
    if config.price:
        frozen = {**frozen, "reference": load_reference(config, mesh, model)}
    fixed = {"policy": model.fixed} if model.fixed else ()
    if config.plan:
        trained = jax.eval_shape(lambda params: with_value_head(policy, params), model.trained)
    else:
        trained = with_value_head(policy, model.trained)
    draw = drawn(config, model, stop_tokens, 1)
    add_reference_logps = add_logps(
        policy, name="reference_logps", max_new_tokens=config.max_new_tokens, temperature=config.temperature
    )
    add_advantages = add_ppo_advantages(
        policy,
        max_new_tokens=config.max_new_tokens,
        beta=config.price,
        gamma=config.gamma,
        lambda_=config.lam,
    )

    def finish(frozen, params, key, batch):
        if config.price:
            batch = add_reference_logps(frozen["reference"], batch)
        return add_advantages(params, batch)

    def arrange(batch, key):
        return ppo_updates(
            batch, jax.random.fold_in(key, 2), epochs=config.iterations, minibatches=config.num_mini_batches
        )

    objective = ppo_objective(
        policy, max_new_tokens=config.max_new_tokens, cliprange=config.clip[0], cliprange_value=config.epsilon_value,
        vf_coef=config.vf_coef, temperature=config.temperature,
    )  # fmt: skip
    updates = config.iterations * config.num_mini_batches
    return assembled(
        Model(policy, trained, fixed), objective, frozen,
        lambda frozen, params, key, batch: draw(params["policy"], batch, key), add_rewards, finish,
        arrange=arrange if updates > 1 else None, updates=updates,
    )  # fmt: skip


def rejection_problem(
    config: Config, mesh: Mesh, model: Model, stop_tokens, frozen: dict, add_rewards
) -> Problem:
    """Imitate the best of n."""
    draw = drawn(config, model, stop_tokens, config.group)
    return assembled(
        model, rejection_objective(model.policy, max_new_tokens=config.max_new_tokens), frozen,
        lambda frozen, params, key, batch: draw(params, batch, key), add_rewards,
        lambda frozen, params, key, batch: keep_best(batch, num_samples=config.group),
    )  # fmt: skip


def online_problem(
    config: Config, mesh: Mesh, model: Model, stop_tokens, frozen: dict, add_rewards
) -> Problem:
    """Online DPO, and XPO, whose second completion is the reference's."""
    frozen = {**frozen, "reference": load_reference(config, mesh, model)}
    add = add_reference(model.policy, max_completion=config.max_new_tokens)
    paired = PAIRED_LOSSES[config.which_loss]
    if config.which_loss == "ipo":
        # TRL's online trainers take sums where its DPOTrainer averages over tokens.
        paired = paired._replace(per_token=False)
    numbers: dict[str, Any] = {"beta": config.price, "label_smoothing": config.label_smoothing}
    start = {"rewards/margins": 0.0} if config.reference == config.model else {}
    if config.algorithm == "xpo":
        both = xpo_rollout(
            model.policy,
            max_new_tokens=config.max_new_tokens,
            stop_tokens=stop_tokens,
            temperature=config.temperature,
        )

        def roll(frozen, params, key, batch):
            return both(params, frozen["reference"], batch, key)

        objective = xpo_objective(
            model.policy,
            PAIRED_LOSSES["sigmoid"],
            beta=config.price,
            alpha=config.alpha,
            max_completion=config.max_new_tokens,
        )
    else:
        draw = drawn(config, model, stop_tokens, 2)

        def roll(frozen, params, key, batch):
            return draw(params, batch, key)

        objective = paired_objective(model.policy, paired, max_completion=config.max_new_tokens, **numbers)
        if start:
            start["loss"] = loss_at_start(paired, **numbers)
    return assembled(
        model, objective, frozen, roll, add_rewards,
        lambda frozen, params, key, batch: add(frozen["reference"], preference_pairs(batch)), at_start=start,
    )  # fmt: skip


def nash_md_problem(config: Config, mesh: Mesh, model: Model, stop_tokens) -> Problem:
    _, _, judge, judge_params = load_judge(config, mesh)
    roll = nash_md_rollout(
        model.policy, judge, max_new_tokens=config.max_new_tokens, stop_tokens=stop_tokens,
        mixture_coef=config.mixture_coef, temperature=config.temperature,
    )  # fmt: skip
    # At another temperature than 1 the sampler's distribution is not the policy's, and no ratio is promised.
    on_policy = {"ratio": 1.0} if config.temperature == 1.0 else {}
    return Problem(
        model, nash_md_objective(model.policy, beta=config.price, max_new_tokens=config.max_new_tokens),
        frozen={"reference": load_reference(config, mesh, model), "judge": judge_params},
        extend=lambda frozen, params, key, batch: roll(params, frozen["reference"], frozen["judge"], batch, key),
        at_start={**on_policy, **({"kl": 0.0} if config.reference == config.model else {})},
    )  # fmt: skip
