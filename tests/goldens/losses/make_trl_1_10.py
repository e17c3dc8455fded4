"""Makes `trl_1_10.json`: what TRL's BCO, XPO and PPO make of random numbers, and its PRM's head.

TRL 1.16 has none of these any more, so this needs the extra `[oracle]` and `trl==1.10.0`. Run from the
repository root with `python -m tests.goldens.losses.make_trl_1_10`. Methods are called as they are, on a
stand-in; PPO works inside one long method, of which exactly the lines in question are run. PRMTrainer leaves its
loss to the token classifier of transformers.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from transformers.loss.loss_utils import ForTokenClassification
from trl.experimental.bco.bco_trainer import BCOTrainer, RunningMoments
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo.ppo_trainer import masked_mean, masked_whiten
from trl.experimental.xpo import XPOTrainer

from tests.goldens.losses.make_trl_grpo import lines

OUT = Path(__file__).with_name("trl_1_10.json")
BETA, ALPHA, KL_COEF, CLIP = 0.1, 1e-3, 0.05, 0.2


def bco(logratios, labels) -> dict:
    """Two batches: the running mean of the second has the first in it."""
    fake = SimpleNamespace(
        beta=BETA, match_underlying_distribution=False,
        running=RunningMoments(SimpleNamespace(use_distributed=False)),
    )  # fmt: skip
    shifts, losses = [], []
    for ratios, liked in zip(logratios, labels, strict=True):
        chosen, rejected = ratios[liked == 1], ratios[liked == 0]
        zeros = torch.zeros_like
        loss, _, _, shift = BCOTrainer.bco_loss(
            fake, chosen, rejected, zeros(chosen), zeros(rejected), None, None
        )
        in_order = torch.empty_like(ratios)
        in_order[liked == 1], in_order[liked == 0] = loss.chunk(2)
        shifts.append(shift.item())
        losses.append(in_order.tolist())
    return {
        "beta": BETA, "logratios": logratios.tolist(), "labels": labels.tolist(), "shifts": shifts, "losses": losses,
    }  # fmt: skip


def xpo(own, own_reference, other, other_reference, own_wins) -> dict:
    """Tokens of the policy's samples and of the reference's, under both."""
    fake = SimpleNamespace(beta=BETA, alpha=ALPHA, args=SimpleNamespace(loss_type="sigmoid"))
    own.requires_grad_()
    other.requires_grad_()
    loss, dpo_part, xpo_part = XPOTrainer._compute_losses(
        fake, own, other, other_reference, own_reference, own_wins
    )
    gradients = torch.autograd.grad(loss, (own, other))
    return {
        "beta": BETA, "alpha": ALPHA, "own_wins": own_wins.tolist(),
        "own": own.tolist(), "own_reference": own_reference.tolist(),
        "other": other.tolist(), "other_reference": other_reference.tolist(),
        "dpo_part": dpo_part.tolist(), "xpo_part": xpo_part.tolist(),
        # Of the mean, in the first token of each.
        "gradients": [g[:, 0].tolist() for g in gradients],
    }  # fmt: skip


def ppo(logps, reference_logps, scores, lengths, values, old_values, returns, advantages, old_logps) -> dict:
    position = torch.arange(logps.shape[1])
    padding, padding_or_next = position >= lengths[:, None], position > lengths[:, None]
    args = SimpleNamespace(kl_estimator="k1", kl_coef=KL_COEF, cliprange=CLIP, cliprange_value=CLIP)
    names = {
        "torch": torch, "args": args, "masked_mean": masked_mean, "logprobs": logps, "ref_logprobs": reference_logps,
        "scores": scores, "sequence_lengths": lengths - 1, "sequence_lengths_p1": lengths,
        "vpred": values, "mb_values": old_values, "mb_return": returns, "mb_advantage": advantages,
        "new_logprobs": logps, "mb_logprobs": old_logps, "padding_mask": padding, "padding_mask_p1": padding_or_next,
        "micro_batch_inds": slice(None),
    }  # fmt: skip
    exec(lines(PPOTrainer.train, "logr =", "rewards[actual_start, actual_end]"), names)
    exec(lines(PPOTrainer.train, "vpredclipped =", "vf_loss ="), names)
    exec(lines(PPOTrainer.train, "logprobs_diff =", "pg_loss ="), names)
    arrays = {
        "logps": logps, "reference_logps": reference_logps, "scores": scores, "lengths": lengths, "values": values,
        "old_values": old_values, "returns": returns, "advantages": advantages, "old_logps": old_logps,
        "rewards": names["rewards"], "value_loss": names["vf_loss"], "policy_loss": names["pg_loss"],
        "whitened": masked_whiten(advantages, ~padding).masked_fill(padding, 0),
    }  # fmt: skip
    return {"kl_coef": KL_COEF, "clip": CLIP} | {name: array.tolist() for name, array in arrays.items()}


def process(logits, labels) -> dict:
    logits.requires_grad_()
    loss = ForTokenClassification(logits, labels, SimpleNamespace(num_labels=2))
    (gradient,) = torch.autograd.grad(loss, logits)
    return {
        "logits": logits.tolist(), "labels": labels.tolist(), "loss": loss.item(), "gradient": gradient.tolist(),
    }  # fmt: skip


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).round(decimals=3)

    def short(tree):
        if isinstance(tree, dict):
            return {name: short(x) for name, x in tree.items()}
        if isinstance(tree, list):
            return [short(x) for x in tree]
        return float(f"{tree:.8g}") if isinstance(tree, float) else tree

    half = torch.tensor([1, 0] * 8)
    labels = torch.stack([half[torch.randperm(16, generator=generator)] for _ in range(2)])
    lengths = torch.tensor([5, 3, 1, 4])
    logps, old_logps = -normal(4, 6).abs(), -normal(4, 6).abs()
    steps = torch.tensor([[1, 0, 1, -100], [0, -100, -100, -100], [1, 1, 0, 0]])
    golden = {
        "made_by": "tests/goldens/losses/make_trl_1_10.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "bco": bco(8 * normal(2, 16), labels),
        "xpo": xpo(
            -normal(6, 3).abs(), -normal(6, 3).abs(), -normal(6, 3).abs(), -normal(6, 3).abs(), normal(6) > 0
        ),
        "ppo": ppo(
            logps, -normal(4, 6).abs(), normal(4), lengths, normal(4, 6), normal(4, 6), normal(4, 6), normal(4, 6),
            logps + (old_logps - logps) / 4,
        ),
        "process": process(normal(3, 4, 2), steps),
    }  # fmt: skip
    OUT.write_text(json.dumps(short(golden), separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
