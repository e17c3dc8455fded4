"""Makes `trl_links.json`: TRL's DPO under other divergences, with WPO's weights and with LD-DPO's sums.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl_links`. The
trainer's method is called as it is, in float32 (its α-divergence knows no float64), one pair at a time; the model is
a stand-in that returns the log-probabilities of fixed logits over a small vocabulary.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import DPOTrainer

from tests.goldens.losses.make_trl import trainer

OUT = Path(__file__).with_name("trl_links.json")
PAIRS, PROMPT, LONGEST, VOCABULARY = 60, 2, 6, 7
# (loss_type, beta, what else the trainer has)
CASES = {
    f"{divergence} {loss_type} beta={beta}": (loss_type, beta, settings)
    for divergence, settings in {
        "forward_kl": {"f_divergence_type": "forward_kl"},
        "js_divergence": {"f_divergence_type": "js_divergence"},
        "alpha=0.5": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        "alpha=0": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.0},
        "alpha=1": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
        "alpha=2": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 2.0},
    }.items()
    for loss_type, beta in [("sigmoid", 0.1), ("hinge", 0.5), ("discopop", 0.1)]
} | {
    "wpo sigmoid beta=0.1": ("sigmoid", 0.1, {"use_weighting": True}),
    "wpo ipo beta=0.5": ("ipo", 0.5, {"use_weighting": True}),
    "ld alpha=0.5": ("sigmoid", 0.1, {"ld_alpha": 0.5}),
    "ld alpha=0": ("sigmoid", 0.5, {"ld_alpha": 0.0}),
}  # fmt: skip


def dpo(case, logps, log_sum_squares, lengths, reference_logps) -> tuple[float, list[list[float]]]:
    """The loss of a pair, the chosen completion first, and its gradient in every token's log-probability."""
    loss_type, beta, settings = case
    fake = trainer(loss_type, beta, 0.0)
    vars(fake).update(settings)
    fake.precompute_ref_logps = False
    fake.ref_model = lambda **_: SimpleNamespace(log_probs=reference_logps)
    fake.model, fake.args.gradient_checkpointing_kwargs = torch.nn.Module(), None
    fake.model.is_gradient_checkpointing = False
    position = torch.arange(PROMPT + LONGEST)
    mask = ((position >= PROMPT) & (position < PROMPT + lengths[:, None])).long()
    logps = logps.clone().requires_grad_()
    zeros = torch.zeros_like(logps)

    def model(**_):
        return SimpleNamespace(
            log_probs=logps,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
            log_sum_sq_probs=log_sum_squares,
        )

    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask,
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(fake, model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, logps)
    return loss.item(), gradient[:, PROMPT - 1 :].tolist()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(PROMPT - 1 + LONGEST)  # TRL's log-probabilities are already shifted by one
    pairs, losses, gradients = defaultdict(list), defaultdict(list), defaultdict(list)

    def scored(logits, tokens, real):
        logps = logits.log_softmax(-1)
        of_tokens = logps.gather(-1, tokens[..., None])[..., 0] * real
        return of_tokens.round(decimals=4), ((2 * logps).logsumexp(-1) * real).round(decimals=4)

    for _ in range(PAIRS):
        lengths = torch.randint(1, LONGEST + 1, (2,), generator=generator)
        real = (columns >= PROMPT - 1) & (columns < PROMPT - 1 + lengths[:, None])
        shape = 2, columns.numel(), VOCABULARY
        logits = 1.5 * torch.randn(*shape, generator=generator)
        tokens = torch.randint(VOCABULARY, shape[:2], generator=generator)
        logps, log_sum_squares = scored(logits, tokens, real)
        reference_logps, _ = scored(logits + torch.randn(*shape, generator=generator), tokens, real)
        arrays = {"logps": logps, "log_sum_squares": log_sum_squares, "reference_logps": reference_logps}
        for name, array in arrays.items():
            pairs[name].append(array[:, PROMPT - 1 :].tolist())
        pairs["lengths"].append(lengths.tolist())
        for name, case in CASES.items():
            loss, gradient = dpo(case, logps, log_sum_squares, lengths, reference_logps)
            losses[name].append(loss)
            gradients[name].append(gradient)

    def short(tree):
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.7g}")

    golden = {
        "made_by": "tests/goldens/losses/make_trl_links.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        # Of each pair and completion, the chosen one first, its tokens.
        "pairs": {name: short(values) for name, values in pairs.items()},
        "losses": {name: short(values) for name, values in losses.items()},
        # The tokens of a completion all have the same gradient, that of its sum, but with LD-DPO.
        "gradients": {
            name: short(values if name.startswith("ld") else [[c[0] for c in pair] for pair in values])
            for name, values in gradients.items()
        },
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
