"""TRL: its trainers' own loss methods, on a stand-in that has what they read and returns fixed log-probabilities."""

import functools
import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

from experiments.benchmarks.peers.alone import lines
from experiments.benchmarks.peers.measuring import Batch, Peer

LIBRARY = "TRL"


def _peer(run: Any) -> Peer:
    return Peer(LIBRARY, run, "torch")


def _accelerator() -> SimpleNamespace:
    def same(x: Any, *_: Any, **__: Any) -> Any:
        return x

    return SimpleNamespace(
        device="cpu", num_processes=1, sync_gradients=False, gather=same, gather_for_metrics=same, reduce=same,
        pad_across_processes=same,
    )  # fmt: skip


def _trainer(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=_accelerator(), aux_loss_enabled=False, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, **attributes,
    )  # fmt: skip


def _outputs(logps: Any, **more: Any) -> Any:
    import torch

    zeros = torch.zeros_like(logps)
    return lambda **_: SimpleNamespace(
        log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), **more
    )


def _inputs(batch: Batch) -> dict[str, Any]:
    """One token of prompt before each completion, since TRL shifts by one."""
    import torch

    mask = torch.nn.functional.pad(batch["mask"], (1, 0)).long()
    return {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }


def dpo(
    *loss_types: str, beta: float = 0.1, label_smoothing: float = 0.0, single: bool = False, **attributes: Any
) -> Peer:
    """`DPOTrainer._compute_loss`. `single`: in float32, where it knows no float64."""

    def run(batch: Batch) -> Any:
        from trl import DPOTrainer

        batch = {name: x.float() if single and x.is_floating_point() else x for name, x in batch.items()}
        logps, more = batch["logps"] * batch["mask"], {}
        if attributes.get("use_weighting"):
            more["log_sum_sq_probs"] = (batch["logits"].softmax(-1) ** 2).sum(-1).log()
        fake = _trainer(
            precompute_ref_logps=True, loss_types=loss_types, loss_weights=[1.0] * len(loss_types), beta=beta,
            label_smoothing=label_smoothing, args=SimpleNamespace(discopop_tau=0.05),
            **({"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"} | attributes),
        )  # fmt: skip
        reference = (batch["reference_logps"] * batch["mask"]).sum(-1)
        if (alpha := attributes.get("ld_alpha")) is not None:
            reference = _shared_then_tail(batch["reference_logps"] * batch["mask"], batch["mask"], alpha)
        chosen, rejected = reference.chunk(2)
        inputs = _inputs(batch) | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return DPOTrainer._compute_loss(fake, _outputs(logps, **more), inputs, False)

    return _peer(run)


def _shared_then_tail(logps: Any, mask: Any, alpha: float) -> Any:
    """LD-DPO of the reference, which TRL precomputes: an input, by the method's definition."""
    import torch

    lengths = mask.sum(-1)
    shared = torch.minimum(*lengths.chunk(2)).repeat(2)
    inside = mask.cumsum(-1) <= shared[:, None]
    return (logps * (inside + alpha * (~inside).to(logps.dtype))).sum(-1)


def kto(
    loss_type: str, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Peer:
    """`KTOTrainer._compute_loss`; the log-ratios of mismatched completions are given."""

    def run(batch: Batch) -> Any:
        from trl import KTOTrainer

        fake = _trainer(
            precompute_ref_logps=True, loss_type=loss_type, calculate_KL=loss_type == "kto", beta=beta,
            desirable_weight=desirable_weight, undesirable_weight=undesirable_weight,
            _compute_kl_logps=lambda *_: batch["kl_logratio"],
        )  # fmt: skip
        inputs = _inputs(batch) | {
            "label": batch["desirable"].long(), "ref_KL_logps": 0 * batch["kl_logratio"],
            "ref_logps": (batch["reference_logps"] * batch["mask"]).sum(-1),
        }  # fmt: skip
        return KTOTrainer._compute_loss(fake, _outputs(batch["logps"] * batch["mask"]), inputs, False)

    return _peer(run)


def cpo(
    loss_type: str, *, beta: float = 0.1, label_smoothing: float = 0.0, gamma: float = 0.5, alpha: float = 0.0,
    average: bool = False,
) -> Peer:  # fmt: skip
    """`CPOTrainer.cpo_loss`, on sums or averages, as `average_log_prob` of its `get_batch_logps` makes them."""

    def run(batch: Batch) -> Any:
        from trl.experimental.cpo import CPOTrainer

        fake = _trainer(
            beta=beta, label_smoothing=label_smoothing, loss_type=loss_type, simpo_gamma=gamma, alpha=alpha
        )
        return CPOTrainer.cpo_loss(fake, *_logp(batch, average).chunk(2))[0].mean()

    return _peer(run)


def odds_ratio(*, beta: float = 0.1) -> Peer:
    """`ORPOTrainer.odds_ratio_loss`, which is subtracted from the likelihood."""

    def run(batch: Batch) -> Any:
        from trl.experimental.orpo import ORPOTrainer

        return -ORPOTrainer.odds_ratio_loss(_trainer(beta=beta), *_logp(batch, True).chunk(2))[0].mean()

    return _peer(run)


def _logp(batch: Batch, average: bool) -> Any:
    total = (batch["logps"] * batch["mask"]).sum(-1)
    return total / batch["mask"].sum(-1) if average else total


def reward(*, margin: bool = False, centring: float | None = None) -> Peer:
    """`RewardTrainer.compute_loss`."""

    def run(batch: Batch) -> Any:
        from trl import RewardTrainer

        fake = _trainer(args=SimpleNamespace(center_rewards_coefficient=centring))
        inputs = {"margin": batch["margin"]} if margin else {}
        scores = batch["scores"][:, None]
        return RewardTrainer.compute_loss(fake, lambda **_: SimpleNamespace(logits=scores), inputs)

    return _peer(run)


def dft() -> Peer:
    """`SFTTrainer.compute_loss`, of the log-probabilities that the logits give."""

    def run(batch: Batch) -> Any:
        from trl import SFTTrainer

        ids = batch["tokens"][..., None]
        logps = batch["logits"].log_softmax(-1).gather(-1, ids)[..., 0] * batch["mask"]
        fake = _trainer(
            compute_loss_func=None, label_smoother=None,
            args=SimpleNamespace(loss_type="dft", average_tokens_across_devices=False, max_length=None),
        )  # fmt: skip
        fake.accelerator.parallelism_config = None
        return SFTTrainer.compute_loss(fake, _outputs(logps, label_mask=batch["mask"]), {})

    return _peer(run)


def a_star_po(*, beta: float) -> Peer:
    """`A2POTrainer.compute_loss`."""

    def run(batch: Batch) -> Any:
        from trl.experimental.a2po import A2POTrainer

        logp = (batch["logps"] * batch["mask"]).sum(-1)
        fake = _trainer(args=SimpleNamespace(beta2=beta), _get_sequence_logps=lambda *_: logp)
        inputs = {
            "input_ids": None, "attention_mask": None, "logits_to_keep": None,
            "ref_logps": (batch["reference_logps"] * batch["mask"]).sum(-1), "rewards": batch["group_rewards"],
            "v_star": batch["scores"],
        }  # fmt: skip
        return A2POTrainer.compute_loss(fake, None, inputs)

    return _peer(run)


def tpo(*, beta: float, alpha: float) -> Peer:
    """`TPOTrainer._compute_loss`, on two triples: the first six sequences, their logits and their tokens."""

    def run(batch: Batch) -> Any:
        import torch
        from trl.experimental.tpo import TPOTrainer

        pad = torch.nn.functional.pad
        mask, ids, logits = (batch[name][:6] for name in ("mask", "tokens", "logits"))
        fake = _trainer(loss_type="sigmoid", beta=beta, label_smoothing=0.0, tpo_alpha=alpha)
        inputs = {
            "input_ids": pad(ids, (1, 0)), "completion_mask": pad(mask, (1, 0)).long(),
            "attention_mask": torch.ones(6, mask.shape[1] + 1),
        }  # fmt: skip
        logits = pad(logits, (0, 0, 0, 1))
        return TPOTrainer._compute_loss(fake, lambda **_: SimpleNamespace(logits=logits), inputs, False)

    return _peer(run)


@functools.cache
def _policy_trainer(name: str) -> Any:
    import trl

    if name == "GMPOTrainer":
        from trl.experimental.gmpo import GMPOTrainer

        return GMPOTrainer
    return getattr(trl, name)


def tokens(
    loss_type: str, *, trainer: str = "GRPOTrainer", level: str = "token", epsilon_low: float = 0.2,
    epsilon_high: float = 0.2, beta: float = 0.0, sampler: Any = None, entropy_quantile: float = 1.0,
    entropy_bonus: float = 0.0, off_policy_threshold: float | None = None, length: int = 16, **args: Any,
) -> Peer:  # fmt: skip
    """`_compute_loss` of GRPOTrainer, RLOOTrainer or GMPOTrainer; `sampler`: the weights of its vLLM correction."""

    def run(batch: Batch) -> Any:
        import torch

        own = _policy_trainer(trainer)
        settings = {
            "delta": None, "use_bias_correction_kl": False, "steps_per_generation": 1, "sapo_temperature_pos": 1.0,
            "sapo_temperature_neg": 1.05, "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0,
            "vespo_lambda_neg": 2.0,
        }  # fmt: skip
        fake = _trainer(
            loss_type=loss_type, importance_sampling_level=level, epsilon_low=epsilon_low, epsilon_high=epsilon_high,
            beta=beta, args=SimpleNamespace(**(settings | args)), top_entropy_quantile=entropy_quantile,
            off_policy_mask_threshold=off_policy_threshold, use_vllm=sampler is not None,
            vllm_importance_sampling_correction=sampler is not None, current_gradient_accumulation_steps=1,
            max_completion_length=length, _entropy_bonus_enabled=entropy_bonus != 0.0, use_adaptive_entropy=False,
            entropy_coef=entropy_bonus,
            _get_per_token_logps_and_entropies=lambda *_, **__: (batch["logps"], batch["entropies"], None),
        )  # fmt: skip
        for name in ("get_high_entropy_mask", "get_off_policy_mask", "get_gamma_weights"):
            if hasattr(own, name):
                method = getattr(own, name)
                static = isinstance(vars(_policy_trainer("GRPOTrainer")).get(name), staticmethod)
                setattr(fake, name, method if static else functools.partial(method, fake))
        mask = batch["mask"].long()
        prompt = torch.ones(len(mask), 1, dtype=torch.long)
        old = batch["behaviour_logps"]
        inputs = {
            "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
            "advantages": batch["advantages"], "old_per_token_logps": old, "old_logps": (old * mask).sum(-1),
            "ref_per_token_logps": batch["reference_logps"], "num_items_in_batch": mask.sum(),
            "sampling_per_token_logps": batch["sampler_logps"],
        }  # fmt: skip
        if sampler is not None:
            inputs["importance_sampling_ratio"] = sampler(batch)
        return own._compute_loss(fake, None, inputs)

    return _peer(run)


def advantages(
    scale_rewards: str | None = None, *, trainer: str = "GRPOTrainer", several: str = "sum_then_normalize"
) -> Peer:
    """The lines of `_generate_and_score_completions` between rewards and advantages, run as they stand.

    With `several="normalize_then_sum"` of two rewards, weighed 1 and 0.5.
    """

    def run(batch: Batch) -> Any:
        import torch
        from trl.trainer.utils import nanstd

        from experiments.benchmarks.peers.batches import GROUP

        more: dict[str, Any] = {} if scale_rewards is None else {"scale_rewards": scale_rewards}
        rewards, weights = batch["group_rewards"][:, None], torch.ones(1)
        if several == "normalize_then_sum":
            rewards = torch.stack([batch["group_rewards"], batch["scores"]], dim=1)
            weights, more = torch.tensor([1.0, 0.5]), more | {"reward_funcs": [None, None]}
        names = {
            "torch": torch, "nanstd": nanstd, "device": "cpu", "num_generations": GROUP,
            "rewards_per_func": rewards,
            "self": SimpleNamespace(
                reward_weights=weights, multi_objective_aggregation=several, beta=0.0,
                reward_clip_range=None, normalize_advantages=False, **more,
            ),
        }  # fmt: skip
        text = inspect.getsource(_policy_trainer(trainer)._generate_and_score_completions)
        exec(lines(text, "unscorable_mask =", "advantages = torch.nan_to_num"), names)
        return names["advantages"]

    return _peer(run)


def optimal_values(*, beta: float) -> Peer:
    """The line of A2POTrainer that estimates V*, of the rewards of each group."""

    def run(batch: Batch) -> Any:
        import math

        import torch
        from trl.experimental.a2po import A2POTrainer

        from experiments.benchmarks.peers.batches import GROUP

        rewards = batch["group_rewards"].view(-1, GROUP)
        names = {"torch": torch, "math": math, "rewards": rewards, "beta1": beta, "n": GROUP}
        exec(lines(inspect.getsource(A2POTrainer._estimate_optimal_values), "v_star =", "v_star ="), names)
        return names["v_star"]

    return _peer(run)
