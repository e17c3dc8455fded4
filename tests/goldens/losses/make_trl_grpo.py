"""Makes `trl_grpo.json`: what TRL's GRPO and RLOO make of random completions, from rewards to gradients.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl_grpo`.
`_compute_loss` of both trainers is called as it is, on a stand-in that returns fixed log-probabilities.
Advantages are made in the middle of a long method, of which exactly those lines are run.
"""

import inspect
import json
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import nanstd

OUT = Path(__file__).with_name("trl_grpo.json")
BATCHES, SEQUENCES, LONGEST, WINDOW = 4, 8, 6, 16
# Of GRPOTrainer: its `loss_type`, and what differs from the defaults.
CASES = {
    "grpo": {},
    "grpo clip higher": {"epsilon_high": 0.28},
    "grpo delta": {"delta": 1.5},
    "grpo sequence": {"importance_sampling_level": "sequence"},
    "grpo kl": {"beta": 0.04},
    "grpo kl corrected": {"beta": 0.04, "use_bias_correction_kl": True},
    "bnpo": {},
    "dapo": {"epsilon_high": 0.28},
    "dr_grpo": {},
    "cispo": {"epsilon_high": 1.28},
}
REWARDS = [
    [1.0, 0.0, 0.5, 0.0],
    [1.0, 1.0, 0.0, 1.0],
    [0.3, 0.3, 0.3, 0.3],
    [None, 0.2, 0.9, -1.0],
    [None, None, 0.4, 0.1],
    [None, None, None, 0.7],
    [None, None, None, None],
]


def settings(
    epsilon_high=0.2, delta=None, importance_sampling_level="token", beta=0.0, use_bias_correction_kl=False
):
    """As much of a GRPOTrainer as `_compute_loss` reads."""
    return SimpleNamespace(
        epsilon_low=0.2, epsilon_high=epsilon_high, importance_sampling_level=importance_sampling_level, beta=beta,
        args=SimpleNamespace(
            delta=delta, use_bias_correction_kl=use_bias_correction_kl, steps_per_generation=1
        ),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, use_vllm=False, current_gradient_accumulation_steps=1,
        max_completion_length=WINDOW, _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, device="cpu",
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip


def run(trainer, name, batch, **changes) -> tuple[float, list[list[float]]]:
    """Loss and gradient in the log-probabilities of tokens."""
    logps = batch["logps"].clone().requires_grad_()
    fake = settings(**changes)
    fake.loss_type = name.split(" ")[0]
    fake._get_per_token_logps_and_entropies = lambda *_, **__: (logps, torch.zeros_like(logps), None)
    mask, prompt = batch["mask"], torch.ones(SEQUENCES, 1, dtype=torch.long)
    old = batch["behaviour_logps"]
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask,
        "advantages": batch["advantages"], "old_per_token_logps": old, "old_logps": (old * mask).sum(dim=1),
        "ref_per_token_logps": batch["reference_logps"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trainer._compute_loss(fake, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient.tolist()


def lines(method, first: str, last: str) -> str:
    """From the line that starts with `first` to the one that starts with `last`, without their indent."""
    source = inspect.getsource(method).splitlines()
    begin = next(i for i, line in enumerate(source) if line.strip().startswith(first))
    end = next(i for i, line in enumerate(source) if i > begin and line.strip().startswith(last))
    return textwrap.dedent("\n".join(source[begin : end + 1]))


def advantages(trainer, **attributes) -> list[float]:
    rewards = torch.tensor([[float("nan") if r is None else r] for group in REWARDS for r in group])
    names = {
        "torch": torch, "nanstd": nanstd, "device": "cpu", "rewards_per_func": rewards, "num_generations": 4,
        "self": SimpleNamespace(
            reward_weights=torch.ones(1), multi_objective_aggregation="sum_then_normalize", beta=0.0,
            reward_clip_range=None, normalize_advantages=False, **attributes,
        ),
    }  # fmt: skip
    method = trainer._generate_and_score_completions
    exec(lines(method, "unscorable_mask =", "advantages = torch.nan_to_num"), names)
    return names["advantages"].view(-1, 4).tolist()


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def short(tree):
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.8g}")

    batches, losses, gradients = [], defaultdict(list), defaultdict(list)
    for _ in range(BATCHES):
        lengths = torch.randint(1, LONGEST + 1, (SEQUENCES, 1), generator=generator)
        mask = (torch.arange(LONGEST) < lengths).long()
        logps = -normal(SEQUENCES, LONGEST).abs()
        batch = {
            "logps": logps, "behaviour_logps": logps + 0.3 * normal(SEQUENCES, LONGEST),
            "reference_logps": logps + normal(SEQUENCES, LONGEST), "advantages": normal(SEQUENCES),
        }  # fmt: skip
        batch = {name: value.round(decimals=3) for name, value in batch.items()} | {"mask": mask}
        batches.append({name: value.tolist() for name, value in batch.items()})
        for name, changes in CASES.items():
            loss, gradient = run(GRPOTrainer, name, batch, **changes)
            losses[name].append(loss)
            gradients[name].append(gradient)
        loss, gradient = run(RLOOTrainer, "rloo", batch)
        losses["rloo"].append(loss)
        gradients["rloo"].append(gradient)

    golden = {
        "made_by": "tests/goldens/losses/make_trl_grpo.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "window": WINDOW,
        "batches": batches,
        "losses": {name: short(values) for name, values in losses.items()},
        "gradients": {name: short(values) for name, values in gradients.items()},
        "rewards": REWARDS,
        "advantages": {
            "group": short(advantages(GRPOTrainer, scale_rewards="group")),
            "none": short(advantages(GRPOTrainer, scale_rewards="none")),
            "batch": short(advantages(GRPOTrainer, scale_rewards="batch")),
            "rloo": short(advantages(RLOOTrainer)),
        },
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace(']],"', ']],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
