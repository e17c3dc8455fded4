"""Makes `rlax.json`: GAE, λ-returns and discounted returns of random trajectories, as rlax computes them.

Needs the extra `[oracle]`. Run from the repository root with `python -m tests.returns.make_rlax`.
"""

import json
from pathlib import Path

import jax
import numpy as np
import rlax

OUT = Path(__file__).with_name("rlax.json")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    generator = np.random.default_rng(0)
    cases = []
    for length, gamma, lambda_ in (
        (1, 0.9, 0.8),
        (5, 0.9, 0.8),
        (12, 0.99, 0.95),
        (12, 1.0, 1.0),
        (7, 0.95, 0.0),
    ):
        rewards, values = generator.normal(size=length).round(4), generator.normal(size=length + 1).round(4)
        # An episode ends now and then, also with the last step.
        discounts = gamma * (generator.random(length) > 0.2)
        advantages = rlax.truncated_generalized_advantage_estimation(rewards, discounts, lambda_, values)
        returns = rlax.discounted_returns(rewards, discounts, np.full(length, values[-1]))
        lambda_returns = rlax.lambda_returns(rewards, discounts, values[1:], lambda_)
        cases.append(
            {
                "rewards": rewards.tolist(),
                "values": values.tolist(),
                "discounts": discounts.tolist(),
                "lambda_": lambda_,
                "advantages": np.asarray(advantages).tolist(),
                "returns": np.asarray(returns).tolist(),
                "lambda_returns": np.asarray(lambda_returns).tolist(),
            }
        )
    made = {"made_by": "tests/returns/make_rlax.py", "rlax": rlax.__version__, "cases": cases}
    OUT.write_text(json.dumps(made, indent=None) + "\n")
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
