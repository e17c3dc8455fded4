"""OpenRLHF, verl, Liger, transformers and torch itself: functions of tensors, called as they are."""

from types import SimpleNamespace
from typing import Any

from experiments.benchmarks.peers.alone import alone
from experiments.benchmarks.peers.measuring import Batch, Peer


def _sums(batch: Batch, name: str = "logps") -> Any:
    return (batch[name] * batch["mask"]).sum(-1)


def _averages(batch: Batch) -> Any:
    return _sums(batch) / batch["mask"].sum(-1)


def _on_tokens(advantages: Any, mask: Any) -> Any:
    return advantages[:, None].expand_as(mask)


# OpenRLHF: openrlhf/models/loss.py.


def _openrlhf() -> Any:
    return alone("openrlhf.models.loss", "openrlhf.models.utils")


def openrlhf_dpo(**settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        both = *_sums(batch).chunk(2), *_sums(batch, "reference_logps").chunk(2)
        return _openrlhf().DPOLoss(**({"beta": 0.1} | settings))(*both)[0]

    return Peer("OpenRLHF", run, "torch")


def openrlhf_sft(**settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        return _openrlhf().SFTLoss(**settings)(batch["logps"], batch["mask"])

    return Peer("OpenRLHF", run, "torch")


def openrlhf_reward(*, margin: bool = False) -> Peer:
    def run(batch: Batch) -> Any:
        return _openrlhf().PairWiseLoss()(*batch["scores"].chunk(2), batch["margin"] if margin else None)

    return Peer("OpenRLHF", run, "torch")


def openrlhf_tokens(**settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        loss = _openrlhf().PolicyLoss(**settings)
        mask = batch["mask"]
        return loss(
            batch["logps"], batch["behaviour_logps"], _on_tokens(batch["advantages"], mask), mask,
            rollout_log_probs=batch["sampler_logps"],
        )[0]  # fmt: skip

    return Peer("OpenRLHF", run, "torch")


def openrlhf_value(**settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        loss = _openrlhf().ValueLoss(**settings)
        return loss(batch["values"], batch["old_values"], batch["returns"], batch["mask"])

    return Peer("OpenRLHF", run, "torch")


# verl: verl/trainer/ppo/core_algos.py.


def _verl() -> Any:
    return alone("verl.trainer.ppo.core_algos", "verl.utils.torch_functional", "verl.utils.groupwise")


def _actor(settings: dict[str, Any]) -> Any:
    """An ActorConfig with its defaults, as far as the losses read it."""
    module = _verl()
    defaults = {
        "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "tau_pos": 1.0,
        "tau_neg": 1.05, "global_batch_info": {}, "policy_loss": SimpleNamespace(dro_beta=0.1),
    }  # fmt: skip
    config = type("Settings", (module.ActorConfig,), {})()
    vars(config).update(defaults | settings)
    vars(config)["get"] = lambda name, default=None: vars(config).get(name, default)
    return config


def verl_tokens(
    name: str, *, average: str = "seq-mean-token-mean", weights: Any = None, **settings: Any
) -> Peer:
    """One of its registered policy losses; `weights`: those of its rollout correction."""

    def run(batch: Batch) -> Any:
        mask = batch["mask"]
        return _verl().POLICY_LOSS_REGISTRY[name](
            old_log_prob=batch["behaviour_logps"], log_prob=batch["logps"],
            advantages=_on_tokens(batch["advantages"], mask), response_mask=mask, loss_agg_mode=average,
            config=_actor(settings), rollout_is_weights=None if weights is None else weights(batch),
        )[0]  # fmt: skip

    return Peer("verl", run, "torch")


def verl_constant(length: int | None) -> Peer:
    """Dr. GRPO's average: its own aggregation with a scale factor, or, without, with the width of the rows."""
    more = {} if length is None else {"loss_scale_factor": length}
    return verl_tokens("vanilla", average="seq-mean-token-sum-norm", clip_ratio_c=1e9, global_batch_info=more)


def verl_kl(name: str) -> Peer:
    def run(batch: Batch) -> Any:
        module = _verl()
        kl = module.kl_penalty(batch["logps"], batch["reference_logps"], name)
        return module.agg_loss(kl, batch["mask"], "token-mean")

    return Peer("verl", run, "torch")


def verl_entropy() -> Peer:
    def run(batch: Batch) -> Any:
        return _verl().compute_entropy_loss(batch["logits"], batch["mask"])

    return Peer("verl", run, "torch")


def verl_value(*, clip: float) -> Peer:
    def run(batch: Batch) -> Any:
        columns = (batch[name] for name in ("values", "returns", "old_values", "mask"))
        return _verl().compute_value_loss(*columns, clip)[0]

    return Peer("verl", run, "torch")


def verl_covariance(name: str, **settings: Any) -> Peer:
    return verl_tokens(name, average="token-mean", policy_loss=SimpleNamespace(**settings))


def verl_advantages(name: str, *, tokens: bool = False, **settings: Any) -> Peer:
    """One of its registered estimators, for one reward a sequence; what it gives the first token, or all of them."""

    def run(batch: Batch) -> Any:
        import numpy as np
        import torch

        from experiments.benchmarks.peers.batches import GROUP

        mask = batch["mask"]
        rewards = torch.zeros_like(mask)
        rewards[:, 0] = batch["group_rewards"]
        more = {"index": np.arange(len(mask)) // GROUP}
        if name == "remax":
            more = {"reward_baselines": batch["greedy_rewards"].repeat_interleave(GROUP)}
        found = _verl().get_adv_estimator_fn(name)(rewards, response_mask=mask, **more, **settings)[0]
        return found if tokens else found[:, 0]

    return Peer("verl", run, "torch")


def verl_pass_at_k(*, scaled: bool) -> Peer:
    return verl_advantages("grpo_passk", config={"norm_adv_by_std_in_grpo": scaled})


def verl_reinforce_plus_plus(*, gamma: float) -> Peer:
    def run(batch: Batch) -> Any:
        estimate = _verl().get_adv_estimator_fn("reinforce_plus_plus")
        return estimate(batch["token_rewards"], batch["mask"], SimpleNamespace(gamma=gamma))[0]

    return Peer("verl", run, "torch")


def truncated_ratio(cap: float) -> Any:
    """What a trainer of TRL's or Liger's is handed by its rollout: the ratio, cut off."""
    return lambda batch: (batch["behaviour_logps"] - batch["sampler_logps"]).exp().clamp(max=cap)


def verl_correction(level: str, threshold: float | str) -> Peer:
    """The weights of its rollout correction, which need no gradient."""

    def run(batch: Batch) -> Any:
        module = alone("verl.trainer.ppo.rollout_corr_helper", "verl.utils.torch_functional")
        log_ratio = (batch["behaviour_logps"] - batch["sampler_logps"]) * batch["mask"]
        return module.compute_rollout_correction_weights(log_ratio, batch["mask"], level, threshold)[0]

    return Peer("verl", run, "torch")


def verl_gae(*, gamma: float, lambda_: float) -> Peer:
    """Its returns: advantages come whitened."""

    def run(batch: Batch) -> Any:
        columns = (batch[name] for name in ("token_rewards", "values", "mask"))
        return _verl().compute_gae_advantage_return(*columns, gamma, lambda_)[1] * batch["mask"]

    return Peer("verl", run, "torch")


def verl_whitened() -> Peer:
    def run(batch: Batch) -> Any:
        module = alone("verl.utils.torch_functional")
        return module.masked_whiten(batch["token_advantages"], batch["mask"]) * batch["mask"]

    return Peer("verl", run, "torch")


def verl_shaped(*, beta: float) -> Peer:
    """Rewards of tokens, of which the score is at the last one."""

    def run(batch: Batch) -> Any:
        import torch

        mask = batch["mask"]
        scores = torch.zeros_like(mask)
        scores[torch.arange(len(mask)), mask.sum(-1).long() - 1] = batch["scores"]
        columns = (batch[name] for name in ("logps", "reference_logps"))
        return _verl().compute_rewards(scores, *columns, beta) * mask

    return Peer("verl", run, "torch")


def verl_kl_controller(*, target: float, horizon: int, samples: int) -> Peer:
    """The coefficient after each of the KL divergences, from 0.2."""

    def run(batch: Batch) -> Any:
        import torch

        found = []
        for kl in batch["kl_logratio"].tolist():
            controller = _verl().AdaptiveKLController(0.2, target, horizon)
            controller.update(kl, samples)
            found.append(controller.value)
        return torch.tensor(found, dtype=torch.float64)

    return Peer("verl", run, "torch")


# Liger: the torch functions inside its chunked losses. Its Triton kernels need a GPU and are not run.


def liger_pair(
    file: str, name: str, *, reference: bool = False, average: bool = False, **settings: Any
) -> Peer:
    def run(batch: Batch) -> Any:
        import importlib

        function = getattr(importlib.import_module(f"liger_kernel.chunked_loss.{file}"), name)
        columns = (_averages(batch) if average else _sums(batch)).chunk(2)
        more = dict(settings)
        if reference:
            chosen, rejected = _sums(batch, "reference_logps").chunk(2)
            more |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return function.preference_loss_fn(*columns, batch["mask"], **more)[0]

    return Peer("Liger", run, "torch")


def liger_dpo(loss_type: str, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Peer:
    settings: dict[str, Any] = {"loss_type": loss_type, "beta": beta, "label_smoothing": label_smoothing}
    return liger_pair("dpo_loss", "LigerFusedLinearDPOFunction", reference=True, **settings)


def liger_kto(*, beta: float = 0.1) -> Peer:
    def run(batch: Batch) -> Any:
        from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction

        return LigerFusedLinearKTOFunction.preference_loss_fn(
            _sums(batch), batch["desirable"].bool(), batch["mask"], _sums(batch, "reference_logps"), beta,
            batch["kl_logratio"].mean().clamp(min=0),
        )[0]  # fmt: skip

    return Peer("Liger", run, "torch")


def liger_tokens(loss_type: str, *, sampler: Any = None, **settings: Any) -> Peer:
    def run(batch: Batch) -> Any:
        from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

        return LigerFusedLinearGRPOFunction.ppo_loss_fn(
            batch["logps"], batch["mask"], batch["advantages"], batch["mask"], batch["reference_logps"],
            batch["behaviour_logps"], loss_type=loss_type,
            vllm_is_ratio=None if sampler is None else sampler(batch), **({"beta": 0.0} | settings),
        )[0]  # fmt: skip

    return Peer("Liger", run, "torch")


# torch and transformers.


def torch_list(*, soft: bool) -> Peer:
    """Cross-entropy over lists: of the first item, or with the softmax of other scores as its targets."""

    def run(batch: Batch) -> Any:
        import torch

        items = batch["items"]
        if soft:
            return torch.nn.functional.cross_entropy(items, batch["other_items"].softmax(-1))
        return torch.nn.functional.cross_entropy(items, torch.zeros(len(items), dtype=torch.long))

    return Peer("torch", run, "torch")


def torch_degree() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        return torch.nn.functional.cross_entropy(batch["items"], batch["tokens"][:, 0])

    return Peer("torch", run, "torch")


def torch_squares() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        present = batch["mask"] > 0
        return torch.nn.functional.mse_loss(batch["values"][present], batch["returns"][present])

    return Peer("torch", run, "torch")


def torch_cross_entropy() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        labels = batch["tokens"].where(batch["mask"] > 0, -100)
        return torch.nn.functional.cross_entropy(batch["logits"].flatten(0, 1), labels.flatten())

    return Peer("torch", run, "torch")


def transformers_causal() -> Peer:
    def run(batch: Batch) -> Any:
        from transformers.loss.loss_utils import ForCausalLMLoss

        labels = batch["tokens"].where(batch["mask"] > 0, -100)
        return ForCausalLMLoss(batch["logits"], None, batch["logits"].shape[-1], shift_labels=labels)

    return Peer("transformers", run, "torch")


def transformers_tokens() -> Peer:
    """What TRL's PRMTrainer leaves its loss to."""

    def run(batch: Batch) -> Any:
        from transformers.loss.loss_utils import ForTokenClassification

        labels = batch["labels"].where(batch["mask"] > 0, -100)
        return ForTokenClassification(batch["logits"][..., :2], labels, SimpleNamespace(num_labels=2))

    return Peer("transformers", run, "torch")


def torch_binary() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        function = torch.nn.functional.binary_cross_entropy_with_logits
        labels, present = batch["labels"].to(batch["mask"].dtype), batch["mask"] > 0
        return function(batch["values"][present], labels[present])

    return Peer("torch", run, "torch")


def torch_kl() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        log = torch.nn.functional.log_softmax
        both = (log(batch[name], -1) for name in ("reference_logits", "logits"))
        kl = torch.nn.functional.kl_div(*both, reduction="none", log_target=True).sum(-1)
        return (kl * batch["mask"]).sum() / batch["mask"].sum()

    return Peer("torch", run, "torch")


def torch_entropy() -> Peer:
    def run(batch: Batch) -> Any:
        import torch

        each = torch.distributions.Categorical(logits=batch["logits"]).entropy()
        return (each * batch["mask"]).sum() / batch["mask"].sum()

    return Peer("torch", run, "torch")
