"""Makes `trl.json`: what TRL's own loss code returns for 200 random pairs.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl`.
The trainers' methods are called as they are, one pair at a time, since they average over pairs (AOT, which
sorts, ten pairs at a time); the model is a stand-in that returns fixed log-probabilities, or fixed rewards.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

OUT = Path(__file__).with_name("trl.json")
PAIRS, PROMPT, LONGEST, SORTED = 200, 2, 9, 10
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
    ("exo_pair", 0.1, 0.001),
    ("exo_pair", 2.5, 0.1),
    ("nca_pair", 0.1, 0.0),
    ("bco_pair", 0.1, 0.0),
    ("apo_down", 0.1, 0.0),
    ("discopop", 0.1, 0.0),
    ("sigmoid_norm", 2.5, 0.0),
    ("sft", 0.1, 0.0),
    ("aot", 0.1, 0.0),
    ("aot_unpaired", 0.1, 0.1),
]
# (loss_type, beta, label_smoothing) of CPOTrainer; hinge and ipo are the functions above on other numbers.
REFERENCE_FREE = [("sigmoid", 0.1, 0.0), ("sigmoid", 0.1, 0.1), ("simpo", 2.5, 0.0), ("simpo", 2.5, 0.1)]
SIMPO_GAMMA = 0.5
UNPAIRED = ["kto", "apo_zero_unpaired"]
COLUMNS = [
    "chosen_logratio", "rejected_logratio", "chosen_length", "rejected_length", "margin",
    "chosen_logp", "rejected_logp",
]  # fmt: skip


def trainer(loss_type: str, beta: float, label_smoothing: float) -> SimpleNamespace:
    """As much of a DPOTrainer as `_compute_loss` reads."""
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=beta, label_smoothing=label_smoothing, use_weighting=False, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)), args=SimpleNamespace(discopop_tau=0.05),
    )  # fmt: skip


def dpo(case, logps, lengths, reference) -> tuple[float, list[float]]:
    """The loss of some pairs, all chosen ones first, and its gradient in their summed log-probabilities.

    (Of `sft`, in the first token's.)
    """
    position = torch.arange(PROMPT + LONGEST)
    mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
    logps = logps.clone().requires_grad_()
    zeros = torch.zeros_like(logps)

    def model(**_):
        return SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "ref_chosen_logps": reference.chunk(2)[0], "ref_rejected_logps": reference.chunk(2)[1],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer(*case), model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient[:, PROMPT - 1].tolist()


def unpaired(loss_type, logps, lengths, reference) -> tuple[float, list[float]]:
    """A pair as two examples, one of each label; the "mismatched" completions are the two themselves."""
    position = torch.arange(PROMPT + LONGEST)
    mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
    logps = logps.clone().requires_grad_()
    zeros = torch.zeros_like(logps)
    fake = trainer(loss_type, 0.1, 0.0)
    fake.loss_type, fake.calculate_KL = loss_type, loss_type == "kto"
    fake.desirable_weight, fake.undesirable_weight = 1.3, 0.7
    fake._compute_kl_logps = lambda *_: logps.sum(dim=1)

    def model(**_):
        return SimpleNamespace(log_probs=logps, entropy=zeros, mean_logits=zeros)

    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
        "label": torch.tensor([1, 0]), "ref_logps": reference, "ref_KL_logps": reference,
    }  # fmt: skip
    loss = KTOTrainer._compute_loss(fake, model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient[:, PROMPT - 1].tolist()


def reference_free(case, logps, lengths) -> tuple[float, list[float]]:
    """Of CPOTrainer: sums, or averages for SimPO; the gradient is in those."""
    kind, beta, smoothing = case
    logps = logps.sum(dim=1) / (lengths if kind == "simpo" else 1)
    logps.requires_grad_()
    fake = trainer(kind, beta, smoothing)
    fake.loss_type, fake.alpha, fake.simpo_gamma = kind, 0.0, SIMPO_GAMMA
    loss, *_ = CPOTrainer.cpo_loss(fake, logps[:1], logps[1:])
    (gradient,) = torch.autograd.grad(loss.sum(), logps)
    return loss.item(), gradient.tolist()


def odds_ratio(logps, lengths) -> tuple[float, list[float]]:
    logps = (logps.sum(dim=1) / lengths).float().requires_grad_()  # as there, where it is made float32
    subtracted, *_ = ORPOTrainer.odds_ratio_loss(trainer("", 0.1, 0.0), logps[:1], logps[1:])
    (gradient,) = torch.autograd.grad(-subtracted.sum(), logps)
    return -subtracted.item(), gradient.tolist()


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

    pairs, losses, gradients, together = [], defaultdict(list), defaultdict(list), []

    def keep(name, loss_and_gradient):
        losses[name].append(loss_and_gradient[0])
        gradients[name].append(loss_and_gradient[1])

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
            [
                *(logps.sum(dim=1) - reference).round(decimals=3).tolist(),
                *lengths.tolist(),
                round(margin, 3),
                *logps.sum(dim=1).round(decimals=3).tolist(),
            ]
        )
        together.append((logps, lengths, reference))
        for case in CASES:
            name = "{} beta={} label_smoothing={}".format(*case)
            if not case[0].startswith("aot"):
                keep(name, dpo(case, logps, lengths, reference))
            elif len(together) == SORTED:
                stacked = [torch.stack(column) for column in zip(*together, strict=True)]
                keep(name, dpo(case, *(torch.cat([x[:, 0], x[:, 1]]) for x in stacked)))
        if len(together) == SORTED:
            together.clear()
        for case in REFERENCE_FREE:
            keep("cpo {} beta={} label_smoothing={}".format(*case), reference_free(case, logps, lengths))
        for loss_type in UNPAIRED:
            keep(loss_type, unpaired(loss_type, logps, lengths, reference))
        keep("odds_ratio", odds_ratio(logps, lengths))
        keep("reward", reward(*pairs[-1][:2], pairs[-1][4]))

    def short(tree):
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.8g}")

    golden = {
        "made_by": "tests/goldens/losses/make_trl.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "columns": COLUMNS,
        "pairs": pairs,
        # Gradients in the summed chosen and rejected log-probability; for "reward" in the two rewards, for SimPO and
        # the odds ratio in the averages. AOT: of ten pairs, first in the chosen ones, then in the rejected ones.
        "losses": {name: short(values) for name, values in losses.items()},
        "gradients": {name: short(values) for name, values in gradients.items()},
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
