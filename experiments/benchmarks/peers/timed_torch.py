"""The lines of TRL's trainers that are a loss, taken out of them as they stand, and functions of torch, verl, OpenRLHF.

A trainer's method also counts tokens, gathers and logs; a line of it does what our function does, and no more.
"""

import ast
import functools
import inspect
import math
import textwrap
import types
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # TRL's lines have it by this name

from experiments.benchmarks.peers.alone import alone, lines
from experiments.benchmarks.peers.of_torch import _actor, _verl

Case = tuple[Callable[[Mapping[str, Any]], Any], tuple[str, ...]]
RATIOS, LOGPS = ("chosen", "rejected"), ("chosen_logp", "rejected_logp")
AVERAGES = ("chosen_average", "rejected_average")


def _compiled(body: list[ast.stmt]) -> types.CodeType:
    return compile(ast.fix_missing_locations(ast.Module(body, [])), "a library's lines", "exec")


@functools.cache
def branch(method: Any, test: str, which: int = 0) -> types.CodeType:
    """What a method does under `if TEST:`, or `elif`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == test]
    return _compiled(sorted(found, key=lambda node: node.lineno)[which].body)


@functools.cache
def assignment(method: Any, name: str, which: int = 0) -> types.CodeType:
    """The statement `NAME = …` of a method."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    found = [
        n for n in ast.walk(tree)
        if isinstance(n, ast.Assign) and any(ast.unparse(target) == name for target in n.targets)
    ]  # fmt: skip
    return _compiled([sorted(found, key=lambda node: node.lineno)[which]])


def run(names: dict[str, Any], *codes: types.CodeType) -> dict[str, Any]:
    names |= {"torch": torch, "F": F, "math": math}
    for code in codes:
        exec(code, names)
    return names


def _dpo_trainer() -> Any:
    from trl import DPOTrainer

    return DPOTrainer._compute_loss


def trl_pair(
    loss_type: str, moves: tuple[str, ...] = RATIOS, divergence: str = "reverse_kl", **settings: Any
) -> Case:
    fake = SimpleNamespace(
        **({"beta": 0.1, "label_smoothing": 0.1, "args": SimpleNamespace(discopop_tau=0.05)} | settings)
    )

    def mean(a: Mapping[str, Any]) -> Any:
        method = _dpo_trainer()
        names = {
            "self": fake, "device": "cpu", "chosen_logratios": a["chosen"], "rejected_logratios": a["rejected"],
            "chosen_logps": a["chosen_logp"], "rejected_logps": a["rejected_logp"],
            "ref_chosen_logps": a["chosen_reference"], "ref_rejected_logps": a["rejected_reference"],
        }  # fmt: skip
        codes = (
            branch(method, f"self.f_divergence_type == '{divergence}'"), assignment(method, "delta_score"),
            branch(method, f"loss_type == '{loss_type}'"),
        )  # fmt: skip
        return run(names, *codes)["per_sequence_loss"].mean()

    return mean, moves


def openrlhf_pair(**settings: Any) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        module = alone("openrlhf.models.loss", "openrlhf.models.utils")
        nothing = torch.zeros_like(a["chosen"])
        return module.DPOLoss(**settings)(a["chosen"], a["rejected"], nothing, nothing)[0]

    return mean, RATIOS


def trl_free(loss_type: str, names: tuple[str, ...], **settings: Any) -> Case:
    """CPO's branches, of the difference of two log-probabilities, bent or not."""
    fake = SimpleNamespace(
        **({"beta": 0.1, "label_smoothing": 0.1, "simpo_gamma": 0.5, "alpha": 0.0} | settings)
    )
    fake.accelerator = SimpleNamespace(device="cpu")

    def mean(a: Mapping[str, Any]) -> Any:
        from trl.experimental.cpo import CPOTrainer

        method = CPOTrainer.cpo_loss
        both = {"policy_chosen_logps": a[names[0]], "policy_rejected_logps": a[names[1]]}
        logits = branch(method, "self.alpha != 0.0") if fake.alpha else assignment(method, "logits", 1)
        code = branch(method, f"self.loss_type == '{loss_type}'")
        return run({"self": fake, **both}, logits, code)["losses"].mean()

    return mean, names


def _odds_ratio(a: Mapping[str, Any]) -> Any:
    from trl.experimental.orpo import orpo_trainer

    method = orpo_trainer.ORPOTrainer.odds_ratio_loss
    names = dict(zip(("policy_chosen_logps", "policy_rejected_logps"), (a[n] for n in AVERAGES), strict=True))
    names["log1mexp"] = orpo_trainer.log1mexp
    return -run(names, assignment(method, "log_odds"), assignment(method, "ratio"))["ratio"].mean()


def trl_kto(loss_type: str) -> Case:
    fake = SimpleNamespace(beta=0.1, loss_type=loss_type, desirable_weight=1.0, undesirable_weight=1.0)

    def mean(a: Mapping[str, Any]) -> Any:
        from trl import KTOTrainer

        method = KTOTrainer._compute_loss
        liked = a["desirable"].bool()
        nothing = torch.zeros(len(liked) // 2)
        names = {
            "self": fake, "completion_logps": a["chosen"], "bool_labels": liked, "kl": 0.3,
            "ref_chosen_logps": nothing, "ref_rejected_logps": nothing,
        }  # fmt: skip
        codes = [
            assignment(method, name)
            for name in ("chosen_idx", "rejected_idx", "chosen_logps", "rejected_logps")
        ]
        for i, name in enumerate(("chosen_logratios", "rejected_logratios")):
            codes.append(assignment(method, name))
            # The first of KTO's; of the other loss type each has one branch.
            codes.append(branch(method, f"self.loss_type == '{loss_type}'", i))
        return run(names, *codes, assignment(method, "losses"))["losses"].mean()

    return mean, ("chosen",)


def trl_reward(*, margin: bool = False, centring: float | None = None) -> Case:
    def line(a: Mapping[str, Any]) -> Any:
        from trl import RewardTrainer

        method = RewardTrainer.compute_loss
        names = {
            "self": SimpleNamespace(args=SimpleNamespace(center_rewards_coefficient=centring)), "nn": torch.nn,
            "rewards_chosen": a["chosen"], "rewards_rejected": a["rejected"], "inputs": {"margin": a["margin"]},
        }  # fmt: skip
        codes = [assignment(method, "loss", 0 if margin else 1)]
        if centring is not None:
            codes.append(branch(method, "self.args.center_rewards_coefficient is not None"))
        return run(names, *codes)["loss"]

    return line, RATIOS


def _a_star_po(a: Mapping[str, Any]) -> Any:
    from trl.experimental.a2po import A2POTrainer

    method = A2POTrainer.compute_loss
    names = {
        "self": SimpleNamespace(args=SimpleNamespace(beta2=0.1)), "policy_logps": a["chosen"],
        "inputs": {"ref_logps": 0.0, "rewards": a["rejected"], "v_star": a["margin"]},
    }  # fmt: skip
    return run(names, *(assignment(method, name) for name in ("implicit_reward", "target", "loss")))["loss"]


GRPO = "self.loss_type in ['grpo', 'bnpo', 'dr_grpo', 'dapo', 'luspo']"
AVERAGE = {
    "sequence": "self.loss_type in ['grpo', 'sapo']", "token": "self.loss_type == 'bnpo'",
    "luspo": "self.loss_type == 'luspo'",
}  # fmt: skip


def trl_tokens(
    test: str, *, average: str = "sequence", level: str = "token", epsilon_high: float = 0.2, **args: Any
) -> Case:
    """GRPOTrainer's lines from the log-ratio to the mean."""
    settings = {"delta": None, "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05} | args
    settings |= {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    fake = SimpleNamespace(
        epsilon_low=0.2, epsilon_high=epsilon_high, args=SimpleNamespace(**settings),
        current_gradient_accumulation_steps=1,
    )  # fmt: skip

    def mean(a: Mapping[str, Any]) -> Any:
        from trl import GRPOTrainer

        method = GRPOTrainer._compute_loss
        fake.get_gamma_weights = GRPOTrainer.get_gamma_weights
        names = {
            "self": fake, "per_token_logps": a["logps"], "old_per_token_logps": a["behaviour_logps"],
            "advantages": a["advantages"][:, None], "mask": a["mask"], "mode": "train", "inputs": {},
        }  # fmt: skip
        codes = (
            assignment(method, "log_ratio"), branch(method, f"self.importance_sampling_level == '{level}'"),
            assignment(method, "coef_1"), branch(method, test), branch(method, AVERAGE[average]),
        )  # fmt: skip
        return run(names, *codes)["loss"]

    return mean, ("logps",)


def _gmpo(a: Mapping[str, Any]) -> Any:
    from trl.experimental.gmpo import GMPOTrainer

    method = GMPOTrainer._compute_loss
    names = {
        "self": SimpleNamespace(epsilon_low=0.4, epsilon_high=0.4), "per_token_logps": a["logps"],
        "old_per_token_logps": a["behaviour_logps"], "advantages": a["advantages"], "mask": a["mask"],
        "entropy_mask": None,
    }  # fmt: skip
    steps = (
        "log_ratio", "clamped_log_ratio", "advantages_col", "clipped_log_ratio", "seq_mask", "log_importance_weights",
        "coef", "per_sequence_loss", "loss",
    )  # fmt: skip
    return run(names, *(assignment(method, name) for name in steps))["loss"]


def trl_kl(*, corrected: bool) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        from trl import GRPOTrainer

        method = GRPOTrainer._compute_loss
        fake = SimpleNamespace(args=SimpleNamespace(use_bias_correction_kl=corrected))
        names = {
            "self": fake,
            "per_token_logps": a["logps"],
            "inputs": {"ref_per_token_logps": a["reference_logps"]},
        }
        if corrected:
            names["coef_1"] = torch.exp(a["logps"] - a["behaviour_logps"])
        kl = run(names, branch(method, "self.beta != 0.0"))["per_token_kl"]
        return (kl * a["mask"]).sum() / a["mask"].sum()

    return mean, ("logps",)


def verl_tokens(name: str, average: str, **settings: Any) -> Case:
    """A function of verl's, with the metrics in it."""

    def mean(a: Mapping[str, Any]) -> Any:
        return _verl().POLICY_LOSS_REGISTRY[name](
            old_log_prob=a["behaviour_logps"], log_prob=a["logps"],
            advantages=a["advantages"][:, None].expand_as(a["mask"]), response_mask=a["mask"], loss_agg_mode=average,
            config=_actor(settings),
        )[0]  # fmt: skip

    return mean, ("logps",)


def verl_kl(name: str) -> Case:
    def mean(a: Mapping[str, Any]) -> Any:
        return _verl().agg_loss(
            _verl().kl_penalty(a["logps"], a["reference_logps"], name), a["mask"], "token-mean"
        )

    return mean, ("logps",)


def verl_weights(threshold: str | float) -> Case:
    def each(a: Mapping[str, Any]) -> Any:
        module = alone("verl.trainer.ppo.rollout_corr_helper", "verl.utils.torch_functional")
        log_ratio = a["behaviour_logps"] - a["sampler_logps"]
        return module.compute_rollout_correction_weights(log_ratio, a["mask"], "token", threshold)[0]

    return each, ()


def _sequence_mask(a: Mapping[str, Any]) -> Any:
    from trl import GRPOTrainer

    columns = a["advantages"][:, None], a["logps"], a["sampler_logps"], a["mask"]
    return GRPOTrainer.get_off_policy_mask(*columns, 0.01)[:, 0]


def _undecided(a: Mapping[str, Any]) -> Any:
    from trl import GRPOTrainer

    same = SimpleNamespace(pad_across_processes=lambda x, **_: x, gather=lambda x: x)
    fake = SimpleNamespace(accelerator=same)
    return GRPOTrainer.get_high_entropy_mask(fake, a["entropies"], a["mask"], 1 - 0.31).float()


def _wpo(a: Mapping[str, Any]) -> Any:
    names = {
        "shift_completion_mask": a["mask"], "per_token_logps": a["logps"], "seq_len": a["mask"].shape[1],
        "outputs": SimpleNamespace(log_sum_sq_probs=a["log_sum_squares"]),
    }  # fmt: skip
    method = _dpo_trainer()
    steps = (
        assignment(method, name) for name in ("completion_lengths", "aligned_logps", "mean_logps", "weights")
    )
    return run(names, *steps)["weights"]


def _ld_dpo(a: Mapping[str, Any]) -> Any:
    names = {
        "self": SimpleNamespace(ld_alpha=0.3), "shift_completion_mask": a["mask"], "per_token_logps": a["logps"],
        "device": "cpu",
    }  # fmt: skip
    steps = (
        "comp_pos", "comp_lens", "(chosen_lens, rejected_lens)", "shared_lens", "shared_mask", "tail_mask",
        "shared_logps", "tail_logps",
    )  # fmt: skip
    method = _dpo_trainer()
    codes = [assignment(method, name) for name in steps]
    codes.insert(4, assignment(method, "shared_lens", 1))
    return run(names, *codes, assignment(method, "logps", 1))["logps"].mean()


def _dft(a: Mapping[str, Any]) -> Any:
    from trl import SFTTrainer

    method = SFTTrainer.compute_loss
    names = {"outputs": SimpleNamespace(log_probs=a["logps"] * a["mask"])}
    codes = assignment(method, "per_token_loss"), assignment(method, "per_token_loss", 1)
    return run(names, *codes)["per_token_loss"].sum() / a["mask"].sum()


def _sft(a: Mapping[str, Any]) -> Any:
    return alone("openrlhf.models.loss", "openrlhf.models.utils").SFTLoss()(a["logps"], a["mask"])


def _value_clipped(a: Mapping[str, Any]) -> Any:
    return _verl().compute_value_loss(a["values"], a["returns"], a["old_values"], a["mask"], 0.2)[0]


def _squares(a: Mapping[str, Any]) -> Any:
    return ((a["values"] - a["returns"]) ** 2 * a["mask"]).mean()


def trl_advantages(scale: str | None, *, trainer: str = "GRPOTrainer", several: bool = False) -> Case:
    def each(a: Mapping[str, Any]) -> Any:
        import trl
        from trl.trainer.utils import nanstd

        rewards, weights = a["rewards"].reshape(-1, 1), torch.ones(1)
        if several:
            rewards = torch.stack([a["rewards"].reshape(-1), a["other_rewards"].reshape(-1)], dim=1)
            weights = torch.tensor([1.0, 0.5])
        names = {
            "torch": torch, "nanstd": nanstd, "device": "cpu", "num_generations": a["rewards"].shape[1],
            "rewards_per_func": rewards,
            "self": SimpleNamespace(
                reward_weights=weights, beta=0.0, reward_clip_range=None, normalize_advantages=False,
                multi_objective_aggregation="normalize_then_sum" if several else "sum_then_normalize",
                scale_rewards=scale, reward_funcs=[None] * len(weights),
            ),
        }  # fmt: skip
        text = _advantages_source(getattr(trl, trainer))
        exec(lines(text, "unscorable_mask =", "advantages = torch.nan_to_num"), names)
        return names["advantages"].view_as(a["rewards"])

    return each, ()


@functools.cache
def _advantages_source(trainer: Any) -> str:
    return inspect.getsource(trainer._generate_and_score_completions)


def _whitened(a: Mapping[str, Any]) -> Any:
    return alone("verl.utils.torch_functional").masked_whiten(a["values"], a["mask"]) * a["mask"]


TRL: dict[str, Case] = {
    "dpo_loss": trl_pair("sigmoid"), "hinge_loss": trl_pair("hinge"), "robust_dpo_loss": trl_pair("robust"),
    "exo_pair_loss": trl_pair("exo_pair"), "nca_pair_loss": trl_pair("nca_pair"), "bco_pair_loss": trl_pair("bco_pair"),
    "sppo_hard_loss": trl_pair("sppo_hard"), "aot_loss": trl_pair("aot", LOGPS, label_smoothing=0.0),
    "aot_unpaired_loss": trl_pair("aot_unpaired", label_smoothing=0.0),
    "apo_zero_loss": trl_pair("apo_zero"), "apo_down_loss": trl_pair("apo_down"), "discopop_loss": trl_pair("discopop"),
    "forward_kl_link": trl_pair("sigmoid", divergence="forward_kl"),
    "jensen_shannon_link": trl_pair("sigmoid", divergence="js_divergence"),
    "alpha_link": trl_pair("sigmoid", divergence="alpha_divergence", f_alpha_divergence_coef=0.5),
    "cpo_loss": trl_free("sigmoid", LOGPS), "simpo_loss": trl_free("simpo", AVERAGES, beta=2.0),
    "alphapo_loss": trl_free("simpo", AVERAGES, beta=2.0, alpha=0.25), "odds_ratio_loss": (_odds_ratio, AVERAGES),
    "kto_loss": trl_kto("kto"), "apo_zero_unpaired_loss": trl_kto("apo_zero_unpaired"),
    "bradley_terry_loss": trl_reward(), "bradley_terry_loss, margin": trl_reward(margin=True),
    "centring_term": trl_reward(centring=0.01), "a_star_po_loss": (_a_star_po, ("chosen",)),
    "ppo_clip_loss, GRPO": trl_tokens(GRPO), "ppo_clip_loss, dual clip": trl_tokens(GRPO, delta=1.5),
    "cispo_loss": trl_tokens("self.loss_type == 'cispo'", average="token", epsilon_high=1.28),
    "sapo_loss": trl_tokens("self.loss_type == 'sapo'"), "gspo_loss": trl_tokens(GRPO, level="sequence"),
    "luspo_loss": trl_tokens(GRPO, level="sequence", average="luspo"), "gmpo_loss": (_gmpo, ("logps",)),
    "vespo_loss": trl_tokens("self.loss_type == 'vespo'", average="token"),
    "off_policy_sequence_mask": (_sequence_mask, ()), "high_entropy_mask": (_undecided, ()), "wpo_weights": (_wpo, ()),
    "ld_dpo_logp": (_ld_dpo, ("logps",)), "kl_k3": trl_kl(corrected=False), "kl_penalty": trl_kl(corrected=True),
    "dft_loss": (_dft, ("logps",)), "grpo_advantages": trl_advantages("group"),
    "dr_grpo_advantages": trl_advantages("none"), "batch_scaled_advantages": trl_advantages("batch"),
    "rloo_advantages": trl_advantages(None, trainer="RLOOTrainer"),
    "gdpo_advantages": trl_advantages("group", several=True),
}  # fmt: skip
OPENRLHF: dict[str, Case] = {
    "nll_loss": (_sft, ("logps",)),
    "dpo_loss, smoothed": openrlhf_pair(beta=0.1, label_smoothing=0.1), "ipo_loss": openrlhf_pair(beta=0.1, ipo=True),
}  # fmt: skip
VERL: dict[str, Case] = {
    "reinforce_loss": verl_tokens("gpg", "token-mean"), "gspo_token_loss": verl_tokens("gspo", "seq-mean-token-mean"),
    "kl_cov_loss": verl_tokens("kl_cov", "token-mean", policy_loss=SimpleNamespace(kl_cov_ratio=0.01, ppo_kl_coef=1.0)),
    "truncated_importance_weights": verl_weights(2.0), "masked_importance_weights": verl_weights("0.9_1.1"),
    "kl_k1": verl_kl("k1"), "kl_k2": verl_kl("k2"), "value_loss, clipped": (_value_clipped, ("values",)),
    "whitened": (_whitened, ()),
}  # fmt: skip
TORCH: dict[str, Case] = {
    "best_versus_rest_loss": (lambda a: F.cross_entropy(a["items"], a["best"].long()), ("items",)),
    "listnet_loss": (lambda a: F.cross_entropy(a["items"], a["other_items"].softmax(-1)), ("items",)),
    "preference_degree_loss": (lambda a: F.cross_entropy(a["items"], a["grade"].long()), ("items",)),
    "process_reward_loss": (
        lambda a: F.binary_cross_entropy_with_logits(a["values"], a["labels"].float()), ("values",)
    ),
    "rating_loss": (_squares, ("values",)),
}  # fmt: skip
