"""Makes `trl.json`: what TRL's GRPOTrainer and RLOOTrainer compute from given log-probabilities.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.align.make_trl`. The methods
are called as they are; the forward pass is a stand-in that returns fixed log-probabilities.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.gmpo import GMPOTrainer

OUT = Path(__file__).with_name("trl.json")
ROWS, PROMPT, LONGEST = 6, 2, 5
DEFAULTS: dict[str, Any] = {
    "loss_type": "dapo", "importance_sampling_level": "token", "beta": 0.0, "use_bias_correction_kl": True,
    "epsilon": 0.2, "epsilon_high": 0.2, "delta": None,
}  # fmt: skip
# name, settings, whether truncated rows are masked
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("dapo", {}, False),
    ("dapo, masked", {"epsilon_high": 0.28}, True),
    ("grpo", {"loss_type": "grpo", "beta": 0.04}, False),
    ("grpo, masked", {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}, True),
    ("bnpo", {"loss_type": "bnpo", "delta": 1.5}, False),
    ("dr_grpo", {"loss_type": "dr_grpo", "beta": 0.04}, False),
    ("dr_grpo, masked", {"loss_type": "dr_grpo"}, True),
    ("cispo", {"loss_type": "cispo", "epsilon_high": 1.3, "beta": 0.1}, False),
    (
        "gspo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-2, "epsilon_high": 4e-2},
        False,
    ),
    ("gspo, dapo", {"importance_sampling_level": "sequence", "beta": 0.1, "delta": 1.25}, True),
    ("sapo", {"loss_type": "sapo", "beta": 0.04}, False),
    ("sapo, sequence, masked", {"loss_type": "sapo", "importance_sampling_level": "sequence"}, True),
    ("luspo", {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 3e-2}, False),
    ("luspo, token, masked", {"loss_type": "luspo", "beta": 0.04}, True),
    ("vespo", {"loss_type": "vespo"}, False),
    ("vespo, masked", {"loss_type": "vespo", "beta": 0.04}, True),
    ("gmpo", {"loss_type": "gmpo", "epsilon": 0.2, "epsilon_high": 0.3}, False),
    ("gmpo, kl", {"loss_type": "gmpo", "epsilon": 0.4, "epsilon_high": 0.4, "beta": 0.04,
                  "use_bias_correction_kl": False}, False),
    ("cispo, sequence", {"loss_type": "cispo", "importance_sampling_level": "sequence", "epsilon_high": 1.1}, False),
]  # fmt: skip


def stand_in(logps, entropies, **attributes):
    def forward(*_, **__):
        return logps, entropies, None

    return SimpleNamespace(
        _get_per_token_logps_and_entropies=forward,
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        _entropy_bonus_enabled=False, current_gradient_accumulation_steps=1, max_completion_length=LONGEST,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x
        ),
        model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)}, **attributes,
    )  # fmt: skip


def grpo(arrays, settings, masked):
    logps = arrays["logps"].clone().requires_grad_()
    mask = arrays["mask"] * (arrays["learned"][:, None] if masked else 1)
    fake = stand_in(
        logps, arrays["entropies"],
        importance_sampling_level=settings["importance_sampling_level"], beta=settings["beta"],
        loss_type=settings["loss_type"], epsilon_low=settings["epsilon"], epsilon_high=settings["epsilon_high"],
        args=SimpleNamespace(
            use_bias_correction_kl=settings["use_bias_correction_kl"], delta=settings["delta"], steps_per_generation=1,
            sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
            vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        ),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )  # fmt: skip
    prompts = torch.zeros(ROWS, PROMPT, dtype=torch.long)
    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompts + 1, "completion_ids": torch.zeros(ROWS, LONGEST).long(),
        "completion_mask": mask, "advantages": arrays["advantages"], "num_items_in_batch": mask.sum(),
        "old_per_token_logps": arrays["behaviour_logps"], "ref_per_token_logps": arrays["reference_logps"],
    }  # fmt: skip
    trainer = GMPOTrainer if settings["loss_type"] == "gmpo" else GRPOTrainer
    loss = trainer._compute_loss(fake, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logps)
    kept = ("kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "cispo_clip_ratio")
    metrics = {name: values[0] for name, values in fake._metrics["train"].items() if name in kept}
    return {"loss": loss.item(), "gradient": gradient.tolist(), "metrics": metrics}


def rloo(arrays, epsilon, epsilon_high):
    logps = arrays["logps"].clone().requires_grad_()
    fake = stand_in(logps, arrays["entropies"], epsilon_low=epsilon, epsilon_high=epsilon_high)
    prompts = torch.zeros(ROWS, PROMPT, dtype=torch.long)
    inputs = {
        "prompt_ids": prompts, "prompt_mask": prompts + 1, "completion_ids": torch.zeros(ROWS, LONGEST).long(),
        "completion_mask": arrays["mask"], "advantages": arrays["advantages"],
        "old_logps": (arrays["behaviour_logps"] * arrays["mask"]).sum(1),
    }  # fmt: skip
    loss = RLOOTrainer._compute_loss(fake, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logps)
    metrics = {name: values[0] for name, values in fake._metrics["train"].items() if name.endswith("_mean")}
    return {"loss": loss.item(), "gradient": gradient.tolist(), "metrics": metrics}


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([5, 3, 1, 4, 5, 2])
    mask = (torch.arange(LONGEST) < lengths[:, None]).double()
    behaviour = -1.5 - normal(ROWS, LONGEST, scale=1.0).abs()
    arrays = {
        "mask": mask,
        "behaviour_logps": behaviour * mask,
        "logps": (behaviour + normal(ROWS, LONGEST, scale=0.3)) * mask,
        "reference_logps": (behaviour + normal(ROWS, LONGEST, scale=0.5)) * mask,
        "advantages": normal(ROWS, scale=1.0),
        "entropies": normal(ROWS, LONGEST, scale=1.0).abs() * mask,
        "learned": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64),
    }
    cases = []
    for name, changes, masked in CASES:
        settings = {**DEFAULTS, **changes}
        cases.append({"name": name, "settings": settings, "masked": masked, **grpo(arrays, settings, masked)})
    golden = {
        "trl": trl.__version__,
        "arrays": {name: values.tolist() for name, values in arrays.items()},
        "grpo": cases,
        "rloo": {"epsilon": 0.2, "epsilon_high": 0.3, **rloo(arrays, 0.2, 0.3)},
    }
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
