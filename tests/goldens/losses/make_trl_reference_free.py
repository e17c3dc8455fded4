"""Makes `trl_reference_free.json`: what TRL's CPOTrainer and TPOTrainer make of 100 random pairs and 6 triples.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl_reference_free`.
The trainers' methods are called as they are, on a stand-in; TPO's model returns fixed logits.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.tpo import TPOTrainer

OUT = Path(__file__).with_name("trl_reference_free.json")
PAIRS, TRIPLES, LONGEST, PROMPT, VOCABULARY = 100, 6, 7, 2, 11
# name -> loss_type, beta, label_smoothing, alpha
CPO = {
    "alphapo alpha=0.25": ("simpo", 2.5, 0.0, 0.25),
    "alphapo alpha=-0.5": ("simpo", 2.5, 0.0, -0.5),
    "alphapo alpha=0.25 label_smoothing=0.1": ("simpo", 2.5, 0.1, 0.25),
    "hinge": ("hinge", 0.1, 0.0, 0.0),
    "ipo": ("ipo", 0.1, 0.0, 0.0),
}


def cpo(case, logps, lengths) -> dict:
    """Losses of pairs, and their gradients in sums, or in averages where TRL averages."""
    loss_type, beta, smoothing, alpha = case
    logps = (logps / (lengths if loss_type in ("simpo", "ipo") else 1)).requires_grad_()
    fake = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"), alpha=alpha, beta=beta, label_smoothing=smoothing,
        loss_type=loss_type, simpo_gamma=0.5,
    )  # fmt: skip
    losses, *_ = CPOTrainer.cpo_loss(fake, logps[0], logps[1])
    (gradients,) = torch.autograd.grad(losses.sum(), logps)
    return {"losses": losses.tolist(), "gradients": gradients.T.tolist()}


def tpo(loss_type, logits, tokens, mask) -> dict:
    """The loss of a batch, and its gradient in the log-probability of each token that counts, others 0."""
    numbers = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    fake = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=numbers, loss_type=loss_type, beta=0.3,
        label_smoothing=0.1, tpo_l_gamma=0.5, tpo_alpha=0.7, aux_loss_enabled=False, _total_train_tokens=0,
        _tp_size=1, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "completion_mask": mask}

    logits = logits.clone().requires_grad_()
    loss = TPOTrainer._compute_loss(fake, lambda **_: SimpleNamespace(logits=logits), inputs, False)
    (gradient,) = torch.autograd.grad(loss, logits)
    # d loss/d logit of the token itself is (1 - p) d loss/d log p.
    targets = tokens[:, 1:, None]
    chances = logits[:, :-1].detach().softmax(dim=-1).gather(2, targets)[..., 0]
    by_logp = gradient[:, :-1].gather(2, targets)[..., 0] / (1 - chances)
    shape = (3, TRIPLES, -1)
    return {"loss": loss.item(), "gradient": by_logp.reshape(shape).tolist()}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LONGEST + 1, (2, PAIRS), generator=generator)
    spread = torch.where(torch.arange(PAIRS) % 10 == 9, 9.0, 1.5)
    logps = -(torch.rand(2, PAIRS, generator=generator, dtype=torch.float64) * spread * lengths)
    logps = logps.round(decimals=3)
    columns = {
        "chosen_logp": logps[0].tolist(), "rejected_logp": logps[1].tolist(),
        "chosen_length": lengths[0].tolist(), "rejected_length": lengths[1].tolist(),
    }  # fmt: skip

    rows, width = 3 * TRIPLES, PROMPT + LONGEST
    logits = torch.randn(rows, width, VOCABULARY, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, VOCABULARY, (rows, width), generator=generator)
    ends = PROMPT + torch.randint(1, LONGEST + 1, (rows,), generator=generator)
    position = torch.arange(width)
    mask = ((position >= PROMPT) & (position < ends[:, None])).long()
    all_logps = logits.log_softmax(dim=-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    shape = (3, TRIPLES, -1)

    def short(tree):
        if isinstance(tree, dict):
            return {name: short(x) for name, x in tree.items()}
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.9g}")

    golden = {
        "made_by": "tests/goldens/losses/make_trl_reference_free.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "columns": columns,
        "cpo": {name: cpo(case, logps, lengths) for name, case in CPO.items()},
        "tpo": {
            "logps": all_logps.reshape(shape).tolist(),
            "mask": mask[:, 1:].reshape(shape).tolist(),
            **{name: tpo(name, logits, tokens, mask) for name in ("sigmoid", "tpo-l")},
        },
    }
    golden = {k: v if isinstance(v, str) or k == "versions" else short(v) for k, v in golden.items()}
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
