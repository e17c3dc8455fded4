"""EasyDeL, Tunix and rlax: their own functions; where one runs a network first, that returns fixed numbers."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers.alone import alone, given, lines, source
from experiments.benchmarks.peers.measuring import Batch, Peer


def _sums(batch: Batch, name: str = "logps") -> Any:
    return (batch[name] * batch["mask"]).sum(-1)


def _averages(batch: Batch) -> Any:
    return _sums(batch) / batch["mask"].sum(-1)


def _halves(array: Any) -> Any:
    return jnp.split(array, 2)


# EasyDeL: easydel/trainers/*/_fn.py.


def _easydel(trainer: str) -> Any:
    return alone(f"easydel.trainers.{trainer}._fn")


def easydel_dpo(loss_type: str, *, beta: float = 0.1, label_smoothing: float = 0.0, **settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        loss = _easydel("direct_preference_optimization_trainer").get_loss_function(
            loss_type, beta, label_smoothing
        )
        both = *_halves(_sums(batch)), *_halves(_sums(batch, "reference_logps"))
        return loss(*both, beta, label_smoothing, **settings).mean()

    # EXO takes math.log of a traced number.
    return Peer("EasyDeL", run, "jax", compiled=loss_type != "exo_pair")


def easydel_cpo(
    loss_type: str, *, beta: float = 0.1, label_smoothing: float = 0.0, gamma: float = 0.5, alpha: float = 0.0,
    average: bool = False,
) -> Peer:  # fmt: skip
    def run(batch: Batch) -> Any:
        return _easydel("contrastive_preference_optimization_trainer").cpo_loss(
            *_halves(_averages(batch) if average else _sums(batch)), beta=beta, label_smoothing=label_smoothing,
            loss_type=loss_type, simpo_gamma=gamma, alpha=alpha,
        )[0].mean()  # fmt: skip

    return Peer("EasyDeL", run, "jax")


def easydel_odds_ratio(*, beta: float = 0.1) -> Peer:
    def run(batch: Batch) -> Any:
        module = _easydel("odds_ratio_preference_optimization_trainer")
        return -module.odds_ratio_loss(beta, *_halves(_averages(batch)))[0].mean()

    return Peer("EasyDeL", run, "jax")


def easydel_kto(
    loss_type: str, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
):
    def run(batch: Batch) -> Any:
        module = _easydel("kto_trainer")
        with given(module, KTO_LOSS_TYPES=(loss_type,)):
            return module.kto_objective(
                _sums(batch), _sums(batch, "reference_logps"), batch["desirable"], beta=beta, loss_type=loss_type,
                desirable_weight=desirable_weight, undesirable_weight=undesirable_weight,
                policy_kl_logps=batch["kl_logratio"], reference_kl_logps=0 * batch["kl_logratio"],
            )[0]  # fmt: skip

    return Peer("EasyDeL", run, "jax")


def easydel_bco(*, beta: float = 0.1, shift: float) -> Peer:
    def run(batch: Batch) -> Any:
        liked = batch["desirable"] > 0
        return _easydel("binary_classifier_optimization_trainer").compute_bco_loss(
            _sums(batch), _sums(batch, "reference_logps"), liked, ~liked, beta=beta, delta=shift
        )[0]

    return Peer("EasyDeL", run, "jax")


NO_NETWORK = SimpleNamespace(merge=lambda *_, **__: SimpleNamespace(__call__=None), graphstate=None)


def _step(
    module: Any, step: str, batch: Batch, *arguments: Any, forward: dict[str, Any], state: Any = NO_NETWORK,
    **settings: Any,
) -> Any:  # fmt: skip
    """The loss that a step reports in evaluation, a function of what the network is said to return."""
    plain = {
        "make_assertions_and_get_sizes": lambda **_: (1, 1, None),
        "with_sharding_constraint": lambda arr, sharding: arr,
        "LossMetrics": SimpleNamespace,
    }
    with given(module, **plain, **forward):
        return getattr(module, step)(state, batch, *arguments, **settings).loss


def easydel_reward(*, margin: bool = False, centring: float | None = None) -> Peer:
    def run(batch: Batch) -> Any:
        chosen, rejected = _halves(batch["scores"])
        data = {
            "input_ids_chosen": chosen, "input_ids_rejected": rejected, "attention_mask_chosen": None,
            "attention_mask_rejected": None,
        }  # fmt: skip
        data |= {"margin": batch["margin"]} if margin else {}
        # The network's scores are its input.
        state = SimpleNamespace(
            graphstate=None,
            merge=lambda _: lambda input_ids, attention_mask: SimpleNamespace(logits=input_ids),
        )
        return _step(
            _easydel("reward_trainer"), "evaluation_step", data, forward={}, state=state,
            center_rewards_coefficient=centring,
        )  # fmt: skip

    return Peer("EasyDeL", run, "jax")


def easydel_tokens(loss_type: str, *, beta: float = 0.0, **settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        ids = jnp.zeros(batch["mask"].shape, int)
        data = {
            "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids,
            "completion_mask": batch["mask"], "advantages": batch["advantages"],
            "old_per_token_logps": batch["behaviour_logps"],
            "ref_per_token_logps": batch["reference_logps"],
        }  # fmt: skip
        forward = {
            "get_per_token_logps": lambda *_, **__: batch["logps"],
            "extract_generation_model_kwargs": lambda *_, **__: {},
            "repeat_prompt_aligned_model_kwargs": lambda *_, **__: {},
        }
        module = _easydel("group_relative_policy_optimization")
        settings_ = {"is_training": False, "loss_type": loss_type} | settings
        return _step(module, "grpo_step", data, 1, beta, forward=forward, **settings_)

    return Peer("EasyDeL", run, "jax")


def easydel_ppo(*, value: bool, clip: float = 0.2) -> Peer:
    """The policy's half of its PPO, or the value's."""

    def run(batch: Batch) -> Any:
        mask, nothing = batch["mask"], 0 * batch["values"]
        data = {
            "input_ids": None, "attention_mask": None, "completion_mask": mask,
            "old_logps": batch["behaviour_logps"], "old_values": batch["old_values"],
            "returns": batch["returns"] if value else nothing,
            "advantages": jnp.broadcast_to(batch["advantages"][:, None], mask.shape) * (0 if value else 1),
        }  # fmt: skip
        heads = batch["logps"], batch["values"], nothing
        module = _easydel("proximal_policy_optimization_trainer")
        return _step(
            module, "ppo_step", data, 1, clip, 1.0 if value else 0.0, clip, 0.0, None, is_training=False,
            forward={"get_per_token_logps_values_entropies": lambda *_: heads},
        )  # fmt: skip

    return Peer("EasyDeL", run, "jax")


def easydel_nash_md(*, beta: float = 0.1) -> Peer:
    """Of the first half of the sequences, with their preferences."""

    def run(batch: Batch) -> Any:
        half = {name: _halves(batch[name])[0] for name in ("logps", "mask", "reference_logps")}
        data = {
            "prompt_ids": None, "prompt_mask": None, "completion_ids": None, "completion_mask": half["mask"],
            "ref_token_logps": half["reference_logps"], "probabilities": batch["preference"],
        }  # fmt: skip
        forward = {"_compute_policy_logps": lambda *_: half["logps"]}
        module = _easydel("nash_md_trainer")
        return _step(module, "nash_md_step", data, beta, None, None, None, None, 1, False, forward=forward)

    return Peer("EasyDeL", run, "jax")


def easydel_xpo(*, beta: float = 0.1, alpha: float = 0.01) -> Peer:
    """The first half of the sequences are the policy's samples, the second the reference's."""

    def run(batch: Batch) -> Any:
        masks = _halves(batch["mask"])
        # Asked four times: the reference of its own samples and the policy's, then the policy of the same.
        answers = iter((*_halves(batch["reference_logps"]), *_halves(batch["logps"])))
        data = {
            "prompt_ids": None, "prompt_mask": None, "policy_completion_ids": None, "ref_completion_ids": None,
            "policy_completion_mask": masks[0], "ref_completion_mask": masks[1], "chosen_mask": batch["wins"],
            "beta": jnp.array([beta]), "alpha": jnp.array([alpha]), "loss_type": jnp.array([0]),
        }  # fmt: skip
        forward = {"_compute_logps": lambda *_: next(answers)}
        reference = SimpleNamespace(merge=lambda *_: None, graphstate=None)
        return _step(
            _easydel("xpo_trainer"),
            "xpo_step",
            data,
            reference,
            None,
            None,
            None,
            None,
            1,
            False,
            forward=forward,
        )

    return Peer("EasyDeL", run, "jax")


def easydel_advantages(scale_rewards: str) -> Peer:
    """The lines of its GRPO trainer between rewards and advantages, run as they stand."""

    def run(batch: Batch) -> Any:
        from experiments.benchmarks.peers.batches import GROUP

        text = source("easydel.trainers.group_relative_policy_optimization.grpo_trainer")
        names = {
            "jnp": jnp, "rewards_per_func": batch["group_rewards"][:, None], "generation_factor": GROUP,
            "self": SimpleNamespace(reward_weights=jnp.ones(1), scale_rewards=scale_rewards),
        }  # fmt: skip
        exec(lines(text, "rewards = jnp.nansum(", "advantages = jnp.nan_to_num("), names)
        return names["advantages"]

    return Peer("EasyDeL", run, "jax")


# Tunix: tunix/rl/algo_core.py and tunix/sft/dpo/dpo_trainer.py.


def tunix_dpo(algorithm: str = "dpo", **settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        module = alone("tunix.sft.dpo.dpo_trainer")
        chosen, rejected = _halves(_sums(batch, "reference_logps"))
        example = SimpleNamespace(
            input_ids=None, positions=None, attention_mask=None, logits_to_keep=None, images=None,
            completion_mask=batch["mask"], ref_chosen_logps=chosen, ref_rejected_logps=rejected,
        )  # fmt: skip
        with given(module, compute_logps=lambda *_, **__: _halves(_sums(batch))):
            return module.dpo_loss_fn(None, example, algorithm, **settings)[0]

    return Peer("Tunix", run, "jax")


def _tunix() -> Any:
    return alone("tunix.rl.algo_core", "tunix.rl.common", "tunix.rl.function_registry")


def tunix_tokens(
    loss_algo: str = "grpo",
    *,
    average: str = "sequence-mean-token-mean",
    weights: Any = None,
    **settings: Any,
) -> Peer:
    def run(batch: Batch) -> Any:
        module = _tunix()
        config = {
            "beta": 0.0, "epsilon": 0.2, "loss_algo": loss_algo, "loss_agg_mode": average, "temperature": 1.0,
            "kl_loss_mode": "low_var_kl", "kl_clamp_value": None,
        }  # fmt: skip
        example = SimpleNamespace(
            prompt_ids=None, completion_ids=None, completion_mask=batch["mask"], advantages=batch["advantages"],
            old_per_token_logps=batch["behaviour_logps"], ref_per_token_logps=batch["reference_logps"],
            sampler_is_weights=None if weights is None else weights(batch),
        )  # fmt: skip
        forward = SimpleNamespace(**vars(module.common))
        forward.compute_per_token_logps = lambda *_, **__: (batch["logps"], batch["logits"])
        with given(module, common=forward, nnx=SimpleNamespace(split=lambda _: (None, None))):
            return module.grpo_loss_fn(None, example, SimpleNamespace(**(config | settings)), 0, 0)[0]

    return Peer("Tunix", run, "jax")


def tunix_kl(name: str) -> Peer:
    def run(batch: Batch) -> Any:
        common = _tunix().common
        kl = common.compute_kl_divergence(batch["logps"], batch["reference_logps"], name)
        return common.aggregate_loss(kl, batch["mask"], "token-mean")

    return Peer("Tunix", run, "jax")


def tunix_entropy() -> Peer:
    def run(batch: Batch) -> Any:
        module = _tunix()
        return module.masked_mean(module.compute_entropy_from_logits(batch["logits"]), batch["mask"])

    return Peer("Tunix", run, "jax")


def tunix_value(*, clip: float) -> Peer:
    def run(batch: Batch) -> Any:
        module = _tunix()
        example = SimpleNamespace(
            prompt_ids=None, completion_ids=batch["mask"], completion_mask=batch["mask"],
            old_values=batch["old_values"], returns=batch["returns"],
        )  # fmt: skip
        forward = SimpleNamespace(**vars(module.common))
        # A value is predicted one position before its token.
        forward.compute_score = lambda *_, **__: jnp.pad(batch["values"], ((0, 0), (0, 1)))
        with given(module, common=forward):
            return module.ppo_value_loss_fn(None, example, clip, 0, 0)[0]

    return Peer("Tunix", run, "jax")


def tunix_advantages(name: str) -> Peer:
    def run(batch: Batch) -> Any:
        from experiments.benchmarks.peers.batches import GROUP

        return getattr(_tunix(), f"compute_{name}advantages")(batch["group_rewards"], GROUP)

    return Peer("Tunix", run, "jax")


def tunix_gae(*, gamma: float, lambda_: float) -> Peer:
    """Its returns: advantages come whitened."""

    def run(batch: Batch) -> Any:
        columns = (batch[name] for name in ("token_rewards", "values", "mask"))
        return _tunix().compute_gae_advantages(*columns, gamma, lambda_)[1] * batch["mask"]

    return Peer("Tunix", run, "jax")


def tunix_whitened() -> Peer:
    def run(batch: Batch) -> Any:
        return _tunix().masked_whiten(batch["token_advantages"], batch["mask"]) * batch["mask"]

    return Peer("Tunix", run, "jax")


# rlax. It knows no masks: sequences are averaged one at a time, over all their places.


def _rlax(name: str, of: Any) -> Peer:
    def run(batch: Batch) -> Any:
        import rlax

        return of(getattr(rlax, name), batch)

    return Peer("rlax", run, "jax")


def rlax_clipped(*, epsilon: float = 0.2) -> Peer:
    def of(loss: Any, batch: Batch) -> Any:
        # Where the mask is 0 so is the advantage, and the surrogate.
        advantages = batch["advantages"][:, None] * batch["mask"]
        ratio = jnp.exp(batch["logps"] - batch["behaviour_logps"])
        mean = jax.vmap(lambda r, a: loss(r, a, epsilon))(ratio, advantages)
        return (mean * batch["mask"].shape[1] / batch["mask"].sum(-1)).mean()

    return _rlax("clipped_surrogate_pg_loss", of)


def rlax_policy_gradient() -> Peer:
    def of(loss: Any, batch: Batch) -> Any:
        advantages = jnp.broadcast_to(batch["advantages"][:, None], batch["mask"].shape)
        each = jax.vmap(loss)(batch["logits"], batch["tokens"], advantages, batch["mask"])
        return each.sum() * batch["mask"].shape[1] / batch["mask"].sum()

    return _rlax("policy_gradient_loss", of)


def rlax_entropy() -> Peer:
    def of(loss: Any, batch: Batch) -> Any:
        each = jax.vmap(loss)(batch["logits"], batch["mask"])
        return -each.sum() * batch["mask"].shape[1] / batch["mask"].sum()

    return _rlax("entropy_loss", of)


def rlax_kl() -> Peer:
    def of(divergence: Any, batch: Batch) -> Any:
        each = divergence(batch["logits"], batch["reference_logits"])
        return (each * batch["mask"]).sum() / batch["mask"].sum()

    return _rlax("categorical_kl_divergence", of)


def rlax_l2() -> Peer:
    def of(loss: Any, batch: Batch) -> Any:
        return (loss(batch["values"], batch["returns"]) * batch["mask"]).sum() / batch["mask"].sum()

    return _rlax("l2_loss", of)


def rlax_log() -> Peer:
    def of(loss: Any, batch: Batch) -> Any:
        chosen, rejected = _halves(batch["scores"])
        return loss(jax.nn.sigmoid(chosen - rejected), jnp.ones_like(chosen)).mean()

    return _rlax("log_loss", of)


def rlax_returns() -> Peer:
    """Where a sequence ends the discount is 0, so that nothing comes back from padding."""

    def of(returns: Any, batch: Batch) -> Any:
        mask = batch["mask"]
        discounts = 0.9 * jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
        return jax.vmap(lambda r, d: returns(r, d, jnp.zeros(r.shape)))(batch["token_rewards"], discounts)

    return _rlax("discounted_returns", of)


def rlax_gae(*, gamma: float, lambda_: float) -> Peer:
    def of(estimate: Any, batch: Batch) -> Any:
        mask = batch["mask"]
        discounts = gamma * jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
        values = jnp.pad(batch["values"], ((0, 0), (0, 1)))
        found = jax.vmap(lambda r, d, v: estimate(r, d, lambda_, v))(
            batch["token_rewards"], discounts, values
        )
        return (found + batch["values"]) * mask

    return _rlax("truncated_generalized_advantage_estimation", of)
