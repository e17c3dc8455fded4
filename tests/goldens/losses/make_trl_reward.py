"""Makes `trl_reward.json`: what TRL's RewardTrainer returns for batches of pairs, with margins and with centring.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.goldens.losses.make_trl_reward`.
The trainer's method is called as it is; the model is a stand-in that returns fixed rewards.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import RewardTrainer

OUT = Path(__file__).with_name("trl_reward.json")
BATCHES, PAIRS = 20, 5
# Whether there are margins, and the coefficient of centring.
CASES = {"plain": (False, None), "margin": (True, None), "centred": (False, 0.01), "both": (True, 0.3)}


def reward(rewards, margins, coefficient) -> tuple[float, list[list[float]]]:
    """The loss of a batch and its gradient in the rewards, chosen ones first."""
    rewards = rewards.clone().reshape(-1, 1).requires_grad_()
    accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    fake = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, _total_train_tokens=0, _tp_size=1,
        _metrics=defaultdict(lambda: defaultdict(list)), args=SimpleNamespace(center_rewards_coefficient=coefficient),
    )  # fmt: skip
    inputs = {"attention_mask": torch.ones(len(rewards), 1)} | (
        {} if margins is None else {"margin": margins}
    )
    loss = RewardTrainer.compute_loss(fake, lambda **_: SimpleNamespace(logits=rewards), inputs)
    (gradient,) = torch.autograd.grad(loss, rewards)
    return loss.item(), gradient.reshape(2, -1).tolist()


def main() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).round(decimals=3)

    batches, losses, gradients = [], defaultdict(list), defaultdict(list)
    for number in range(BATCHES):
        # Every fifth batch is far out.
        rewards, margins = normal(2, PAIRS) * (40.0 if number % 5 == 4 else 1.5), normal(PAIRS).abs()
        batches.append({"rewards": rewards.tolist(), "margins": margins.tolist()})
        for name, (with_margins, coefficient) in CASES.items():
            value, gradient = reward(rewards, margins if with_margins else None, coefficient)
            losses[name].append(value)
            gradients[name].append(gradient)

    def short(tree):
        return [short(x) for x in tree] if isinstance(tree, list) else float(f"{tree:.8g}")

    golden = {
        "made_by": "tests/goldens/losses/make_trl_reward.py",
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
        "coefficients": {name: coefficient or 0.0 for name, (_, coefficient) in CASES.items()},
        "batches": batches,
        "losses": {name: short(values) for name, values in losses.items()},
        "gradients": {name: short(values) for name, values in gradients.items()},
    }
    OUT.write_text(json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
