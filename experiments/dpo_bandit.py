"""Does DPO reach the optimum it promises, π* ∝ π₀ exp(r/β)? With a known r, one can look.

Total variation to π* at the defaults: 0.013 ± 0.008 (mean, sd of seeds 0-9). Takes seconds.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
import tyro

from prefjax.losses import dpo_loss
from prefjax.train import TrainState, copied, make_mesh, make_step
from prefjax.types import Weighted


@dataclass(frozen=True)
class Config:
    seed: int = 0
    arms: int = 8
    pairs: int = 16384
    beta: float = 1.0  # reward per nat away from the uniform reference
    learning_rate: float = 0.05
    steps: int = 400


def main(config: Config) -> float:
    reward_key, arm_key, label_key, train_key = jax.random.split(jax.random.key(config.seed), 4)

    # Data: Bradley-Terry labels on random pairs of arms.
    reward = jax.random.normal(reward_key, (config.arms,))
    a, b = jax.random.randint(arm_key, (2, config.pairs), 0, config.arms)
    a_wins = jax.random.bernoulli(label_key, jax.nn.sigmoid(reward[a] - reward[b]))
    batch = jnp.where(a_wins, a, b)[None], jnp.where(a_wins, b, a)[None]  # one microbatch

    # Policy: a logit per arm. The uniform reference cancels out of ρ⁺ - ρ⁻.
    def objective(logits, batch, key):
        chosen, rejected = jax.nn.log_softmax(logits)[jnp.stack(batch)]
        return Weighted.of(dpo_loss(chosen, rejected, beta=config.beta))

    # Train.
    optimizer, logits = optax.adam(config.learning_rate), jnp.zeros(config.arms)
    state = TrainState(jnp.array(0), logits, optimizer.init(logits), train_key)
    mesh = make_mesh(data=jax.device_count())
    step = make_step(objective, optimizer, copied(state, mesh), mesh)
    for _ in range(config.steps):
        state, _ = step(state, batch)

    # Report.
    optimum = jax.nn.softmax(reward / config.beta)
    return float(jnp.abs(jax.nn.softmax(state.params) - optimum).sum() / 2)


if __name__ == "__main__":
    print(f"total variation to the optimum: {main(tyro.cli(Config)):.4f}")
