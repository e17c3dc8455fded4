"""Makes `trl.json`: what TRL's own loss code returns for 200 random pairs.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl`.
`DPOTrainer._compute_loss` and `RewardTrainer.compute_loss` are called as they are, one pair at a time, since
they average over pairs; the model is a stand-in that returns fixed log-probabilities, or fixed rewards.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import DPOTrainer, RewardTrainer

OUT = Path(__file__).with_name("trl.json")
PAIRS, PROMPT, LONGEST = 200, 2, 9
# (loss_type, beta, label_smoothing); sigmoid with smoothing shows that TRL ignores it there.
CASES = [
    ("sigmoid", 0.1, 0.0),
    ("sigmoid", 0.1, 0.1),
    ("ipo", 0.1, 0.0),
    ("hinge", 0.1, 0.0),
    ("robust", 0.1, 0.1),
    ("apo_zero", 0.1, 0.0),
    ("sppo_hard", 0.1, 0.0),
    ("sigmoid", 2.5, 0.0),
    ("ipo", 2.5, 0.0),
    ("robust", 2.5, 0.3),
]


def trainer(loss_type: str, beta: float, label_smoothing: float) -> SimpleNamespace:
    """As much of a DPOTrainer as `_compute_loss` reads."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=beta, label_smoothing=label_smoothing, use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip


def dpo(case, logps, lengths, reference) -> tuple[float, list[float]]:
    """The loss of one pair and its gradient in the two summed log-probabilities."""
    position = torch.arange(PROMPT + LONGEST)
    mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
    logps = logps.clone().requires_grad_()
    zeros = torch.zeros_like(logps)

    def model(**_):
        return SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": reference[:1], "ref_rejected_logps": reference[1:],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer(*case), model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient[:, PROMPT - 1].tolist()


def reward(chosen, rejected, margin) -> tuple[float, list[float]]:
    rewards = torch.tensor([[chosen], [rejected]], dtype=torch.float64, requires_grad=True)
    fake = trainer("sigmoid", 0.1, 0.0)
    fake.args = SimpleNamespace(center_rewards_coefficient=None)
    inputs = {"attention_mask": torch.ones(2, 1), "margin": torch.tensor([margin], dtype=torch.float64)}

    def model(**_):
        return SimpleNamespace(logits=rewards)

    loss = RewardTrainer.compute_loss(fake, model, inputs)
    (gradient,) = torch.autograd.grad(loss, rewards)
    return loss.item(), gradient[:, 0].tolist()


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pairs, losses, gradients = [], defaultdict(list), defaultdict(list)
    for number in range(PAIRS):
        lengths = torch.randint(1, LONGEST + 1, (2,), generator=generator)
        columns = torch.arange(PROMPT - 1 + LONGEST)  # TRL's log-probabilities are already shifted by one
        real = (columns >= PROMPT - 1) & (columns < PROMPT - 1 + lengths[:, None])
        # Every tenth pair is far from its reference.
        spread = 40.0 if number % 10 == 9 else 1.5
        logps = (-normal(2, columns.numel()).abs() * spread * real).round(decimals=3)
        reference = (logps.sum(dim=1) + spread * normal(2)).round(decimals=3)
        margin = abs(normal(1).item())
        pairs.append(
            [*(logps.sum(dim=1) - reference).round(decimals=3).tolist(), *lengths.tolist(), round(margin, 3)]
        )
        for case in CASES:
            name = "{} beta={} label_smoothing={}".format(*case)
            loss, gradient = dpo(case, logps, lengths, reference)
            losses[name].append(loss)
            gradients[name].append(gradient)
        loss, gradient = reward(*pairs[-1][:2], pairs[-1][4])
        losses["reward"].append(loss)
        gradients["reward"].append(gradient)

    def short(tree):
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.8g}")

    golden = {
        "made_by": "tests/goldens/losses/make_trl.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "columns": ["chosen_logratio", "rejected_logratio", "chosen_length", "rejected_length", "margin"],
        "pairs": pairs,
        # Gradients in the summed chosen and rejected log-probability; for "reward", in the two rewards.
        "losses": {name: short(values) for name, values in losses.items()},
        "gradients": {name: short(values) for name, values in gradients.items()},
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
