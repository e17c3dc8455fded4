"""Makes `trl_grpo_types.json`: TRL's other losses, masks and weights of GRPO, GMPO, and its controllers.

Needs the extra `[oracle]` (TRL 1.16). Run from the repository root with
`python -m tests.goldens.losses.make_trl_grpo_types`. `_compute_loss` of GRPOTrainer and of GMPOTrainer is called
as it is, on a stand-in that returns fixed log-probabilities and entropies; the weights of samples that another
engine drew are made in the middle of a long method, of which exactly those lines are run. TRL 1.16 has no GSPO-token
any more: that of 1.10 is in `trl_grpo_types_1_10.json`, made by `--old` beside `trl==1.10.0`.
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from tests.goldens.losses.make_trl_grpo import lines

OUT = Path(__file__).with_name("trl_grpo_types.json")
BATCHES, SEQUENCES, LONGEST, WINDOW = 3, 8, 6, 16
# `loss_type`, and what differs from TRL's defaults.
CASES: dict[str, dict[str, Any]] = {
    "sapo": {},
    "sapo temperatures": {"sapo_temperature_pos": 0.5, "sapo_temperature_neg": 2.0},
    "sapo kl": {"beta": 0.04},
    "luspo": {},
    "luspo sequence": {"importance_sampling_level": "sequence"},
    "vespo": {},
    "vespo parameters": {
        "vespo_k_pos": 1.0, "vespo_lambda_pos": 2.0, "vespo_k_neg": 2.0, "vespo_lambda_neg": 0.5,
    },
    "vespo token_truncate": {"mode": "token_truncate"},
    "grpo off-policy mask": {"off_policy_mask_threshold": 0.05},
    "grpo entropy mask": {"top_entropy_quantile": 0.2},
    "dapo entropy mask kl": {"top_entropy_quantile": 0.4, "beta": 0.04},
    "dapo token_truncate": {"mode": "token_truncate", "beta": 0.04},
    "dapo token_truncate both": {"mode": "token_truncate", "clip_min": 0.8, "clip_max": 1.2},
    "dapo token_mask": {"mode": "token_mask", "clip_min": 0.7, "clip_max": 1.5},
    "grpo sequence_truncate": {"mode": "sequence_truncate", "clip_max": 1.5},
    "grpo sequence_mask": {"mode": "sequence_mask"},
    "dr_grpo sequence_mask": {"mode": "sequence_mask", "clip_min": 0.5, "clip_max": 2.0},
    "cispo sequence_mask": {"mode": "sequence_mask", "epsilon_high": 1.28},
    "bnpo entropy bonus": {"entropy_coef": 0.1},
    "grpo off-policy mask of sampler": {"off_policy_mask_threshold": 0.05, "mode": "token_truncate"},
    "gmpo": {},
    "gmpo narrow": {"epsilon_low": 0.2, "epsilon_high": 0.25},
    "gmpo kl": {"beta": 0.04},
    "gmpo entropy mask": {"top_entropy_quantile": 0.4},
}  # fmt: skip
SCHEDULE = [0.5, 0.3, 0.15, 0.1, 0.19, 0.4, 0.05]


def weights(batch, mode, clip_min=None, clip_max=3.0) -> torch.Tensor:
    """The lines of TRL that make them, from both log-probabilities."""
    names = {
        "torch": torch, "math": math, "completion_mask": batch["mask"], "tool_mask": None,
        "old_per_token_logps": batch["behaviour_logps"], "sampling_per_token_logps": batch["sampler_logps"],
        "self": SimpleNamespace(
            vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=clip_min,
            vllm_importance_sampling_clip_max=clip_max,
        ),
    }  # fmt: skip
    method = GRPOTrainer._generate_and_score_completions
    source = lines(method, "per_token_logps_diff =", 'f"Unknown vLLM importance sampling level')
    exec(f"mask = completion_mask\n{source})", names)
    return names["vllm_importance_sampling_ratio"]


def stand_in(**changes) -> SimpleNamespace:
    """As much of a trainer as `_compute_loss` reads."""
    settings: dict[str, Any] = {
        "epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token", "beta": 0.0,
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "entropy_coef": 0.0,
        "sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05, "vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0, "mode": None, **changes,
    }  # fmt: skip
    fake = SimpleNamespace(
        **settings,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1, **settings),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, use_adaptive_entropy=False,
        use_vllm=settings["mode"] is not None, vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1, max_completion_length=WINDOW,
        _entropy_bonus_enabled=settings["entropy_coef"] != 0,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, device="cpu",
            pad_across_processes=lambda x, dim, pad_index: x, sync_gradients=True,
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask, get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )  # fmt: skip
    fake.get_high_entropy_mask = lambda *arguments: GRPOTrainer.get_high_entropy_mask(fake, *arguments)
    return fake


def run(trainer, name, batch, clip_min=None, clip_max=3.0, **changes) -> tuple[float, list[list[float]]]:
    """Loss and gradient in the log-probabilities of tokens; with a bonus, in the entropies."""
    logps, entropies = (batch[key].clone().requires_grad_() for key in ("logps", "entropies"))
    fake = stand_in(**changes)
    fake.loss_type = name.split(" ")[0]
    fake._get_per_token_logps_and_entropies = lambda *_, **__: (logps, entropies, None)
    mask, prompt = batch["mask"], torch.ones(SEQUENCES, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
        "advantages": batch["advantages"], "old_per_token_logps": batch["behaviour_logps"],
        "ref_per_token_logps": batch["reference_logps"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    if fake.mode is not None:
        inputs["importance_sampling_ratio"] = weights(batch, fake.mode, clip_min, clip_max)
        inputs["sampling_per_token_logps"] = batch["sampler_logps"]
    loss = trainer._compute_loss(fake, None, inputs)
    (gradient,) = torch.autograd.grad(loss, entropies if fake._entropy_bonus_enabled else logps)
    return loss.item(), gradient.tolist()


def gdpo(rewards) -> list[list[float]]:
    """Several rewards of samples, in groups of four: each normalised, then summed."""
    names = {
        "torch": torch, "nanstd": nanstd, "device": "cpu", "num_generations": 4,
        "rewards_per_func": torch.tensor(rewards, dtype=torch.float64),
        "self": SimpleNamespace(
            reward_weights=torch.tensor([1.0, 0.5], dtype=torch.float64), reward_funcs=[None, None],
            multi_objective_aggregation="normalize_then_sum", scale_rewards="group",
        ),
    }  # fmt: skip
    exec(
        lines(
            GRPOTrainer._generate_and_score_completions, "unscorable_mask =", "advantages = torch.nan_to_num"
        ),
        names,
    )
    return names["advantages"].view(-1, 4).tolist()


def coefficients() -> list[float]:
    """The adaptive coefficient of entropy, and whether it applies, along a schedule of entropies."""
    fake, found = stand_in(entropy_coef=0.01, entropy_target=0.2), []
    fake.use_adaptive_entropy, fake._entropy_window_stats, fake._last_world_entropy = True, None, 0.0
    fake.entropy_coef = 0.01
    for name, value in {"target": 0.2, "coef_delta": 0.005, "coef_min": 0.0, "coef_max": 1.0}.items():
        setattr(fake.args, f"entropy_{name}", value)
    fake.loss_type = "grpo"
    ones = torch.ones(1, 1)
    for entropy in SCHEDULE:
        fake._get_per_token_logps_and_entropies = lambda *_, h=entropy, **__: (-ones, h * ones, None)
        GRPOTrainer._compute_loss(fake, None, {
            "prompt_ids": ones, "prompt_mask": ones, "completion_ids": ones, "completion_mask": ones,
            "advantages": torch.zeros(1), "num_items_in_batch": torch.tensor(1),
        })  # fmt: skip
        found.append(fake.entropy_coef)
    return found


def random_batches() -> list[dict]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batches = []
    for _ in range(BATCHES):
        lengths = torch.randint(1, LONGEST + 1, (SEQUENCES, 1), generator=generator)
        logps = -normal(SEQUENCES, LONGEST).abs()
        behaviour = logps + 0.3 * normal(SEQUENCES, LONGEST)
        batch = {
            "logps": logps, "behaviour_logps": behaviour, "sampler_logps": behaviour + 0.4 * normal(SEQUENCES, LONGEST),
            "reference_logps": logps + normal(SEQUENCES, LONGEST), "advantages": normal(SEQUENCES),
            "entropies": normal(SEQUENCES, LONGEST).abs(),
        }  # fmt: skip
        batch = {name: value.round(decimals=3) for name, value in batch.items()}
        # A token that the engine did not score.
        batch["sampler_logps"][0, 0] = float("nan")
        batches.append(batch | {"mask": (torch.arange(LONGEST) < lengths).long()})
    return batches


def short(tree):
    return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.8g}")


def main() -> None:
    from trl.experimental.gmpo import GMPOTrainer

    batches = random_batches()
    losses, gradients = defaultdict(list), defaultdict(list)
    for name, changes in CASES.items():
        trainer, wide = (
            (GMPOTrainer, {"epsilon_low": 0.4, "epsilon_high": 0.4})
            if name[:4] == "gmpo"
            else (GRPOTrainer, {})
        )
        for batch in batches:
            loss, gradient = run(trainer, name, batch, **{**wide, **changes})
            losses[name].append(loss)
            gradients[name].append(gradient)
    rewards = [
        [1, 0.9],
        [0, 0.8],
        [1, 0.7],
        [0, 0.6],
        [1, float("nan")],
        [1, 0.5],
        [float("nan")] * 2,
        [0, 0.1],
    ]
    golden = {
        "made_by": "tests/goldens/losses/make_trl_grpo_types.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "window": WINDOW,
        "batches": [
            {name: short(value.nan_to_num(nan=-1e30).tolist()) for name, value in batch.items()} for batch in batches
        ],
        "cases": CASES,
        "losses": {name: short(values) for name, values in losses.items()},
        "gradients": {name: short(values) for name, values in gradients.items()},
        "gdpo": {
            "rewards": [[None if math.isnan(r) else r for r in row] for row in rewards],
            "advantages": short(gdpo(rewards)),
        },
        "entropy": {"schedule": SCHEDULE, "coefficients": short(coefficients())},
    }  # fmt: skip
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace(']],"', ']],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


def old() -> None:
    """GSPO-token, which only TRL 1.10 has, with an advantage for each token."""
    from trl.experimental.gspo_token import GRPOTrainer as GSPOTokenTrainer

    found = []
    for batch in random_batches():
        logps = batch["logps"].clone().requires_grad_()
        fake = stand_in(epsilon_low=0.02, epsilon_high=0.03, importance_sampling_level="sequence_token")
        fake.loss_type = "grpo"
        fake._get_per_token_logps_and_entropies = lambda *_, x=logps, **__: (x, torch.zeros_like(x), None)
        mask, prompt = batch["mask"], torch.ones(SEQUENCES, 1, dtype=torch.long)
        inputs = {
            "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
            "advantages": batch["advantages"], "old_per_token_logps": batch["behaviour_logps"],
        }  # fmt: skip
        loss = GSPOTokenTrainer._compute_loss(fake, None, inputs)
        found.append({"loss": loss.item(), "gradient": short(torch.autograd.grad(loss, logps)[0].tolist())})
    golden = {"trl": trl.__version__, "epsilon_low": 0.02, "epsilon_high": 0.03, "gspo_token": found}
    out = OUT.with_name("trl_grpo_types_1_10.json")
    out.write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    old() if sys.argv[1:] == ["--old"] else main()
