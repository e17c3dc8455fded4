"""Do preference-learned policies rank pairs as their data do? The claims of Chen et al. (arXiv:2405.19534), re-run.

A world where everything is known: prompts with 8 answers each, features φ of an answer, a reward wᵀφ, a reference whose
logits know nothing of the reward, and one pair a prompt whose labels prefer the first with probability α = σ(r - r').
The policy is softmax(reference logits + φθ), so that what it learns at one prompt counts at all others. Twice:

- "clean": 12 features, and labels of the majority;
- "noisy": 256 features, and labels drawn with probability α, one a pair, so that training overfits, as it does there.

A minute at full size, some seconds with --quick.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro

from experiments.claims import Claim, conclude, over_seeds
from experiments.figures import STYLE
from prefjax.evaluate import mean_interval
from prefjax.losses import dpo_loss, ipo_loss
from prefjax.rewards import (
    dpo_optimal_margin,
    dpo_ranking_threshold,
    idealised_ranking_accuracy,
    rank_correlation,
    ranking_accuracy,
)
from prefjax.train import markdown_table

ANSWERS, BETAS, GAMMAS = 8, (0.01, 0.1, 1.0, 5.0, 10.0), (0.0, 0.5, 1.0, 2.0)
REWARD_SPREAD, REFERENCE_SPREAD = 2.4, 3.0  # standard deviations: of r - r', and of a reference logit


@dataclass(frozen=True)
class Config:
    workdir: Path = Path("runs/ranking_accuracy")
    seeds: int = 10
    prompts: int = 400
    steps: int = 400
    beta: float = 0.1
    learning_rate: float = 0.02  # of RMSProp, as in the paper
    quick: bool = False
    """Three seeds and a quarter of the steps."""


class World(NamedTuple):
    """Prompts with their answers, and of each a pair: places 0 and 1 after sorting, the chosen one first."""

    features: jax.Array  # [P, A, D]
    reference: jax.Array  # [P, A], log-probabilities
    reward: jax.Array  # [P, A]
    alpha: jax.Array  # [P], the share of labels that prefer the chosen answer


def draw_world(key, prompts: int, width: int, direction, noisy: bool) -> World:
    feature_key, reference_key, label_key = jax.random.split(key, 3)
    features = jax.random.normal(feature_key, (prompts, ANSWERS, width))
    reward = features @ direction * REWARD_SPREAD / jnp.sqrt(2.0)
    logits = REFERENCE_SPREAD * jax.random.normal(reference_key, (prompts, ANSWERS))
    alpha = jax.nn.sigmoid(reward[:, 0] - reward[:, 1])
    drawn = jax.random.bernoulli(label_key, alpha) if noisy else alpha > 0.5

    def chosen_first(array):
        swapped = array.at[:, :2].set(array[:, 1::-1])
        keep = drawn.reshape(-1, *[1] * (array.ndim - 1))
        return jnp.where(keep, array, swapped)

    reference = jax.nn.log_softmax(logits, axis=-1)
    return World(*map(chosen_first, (features, reference, reward)), jnp.where(drawn, alpha, 1 - alpha))


def log_policy(world: World, theta):
    return jax.nn.log_softmax(world.reference + world.features @ theta, axis=-1)


def losses_of(world: World, theta, beta, gamma):
    """DPO on every pair, with a weight γ on the reference: 1 is DPO, 0 has none."""
    logps = log_policy(world, theta)
    ratios = logps[:, :2] - gamma * world.reference[:, :2]
    return dpo_loss(ratios[:, 0], ratios[:, 1], beta=beta)


def win_rate(world: World, theta):
    """How often an answer of the policy beats one of the reference, by the true preferences; exact."""
    beats = jax.nn.sigmoid(world.reward[:, :, None] - world.reward[:, None, :])
    return jnp.einsum("pa,pab,pb->p", jnp.exp(log_policy(world, theta)), beats, jnp.exp(world.reference)).mean()


class Trace(NamedTuple):
    """After every step; the last axis is that of pairs, where there is one."""

    loss: jax.Array
    held_out_loss: jax.Array
    right: jax.Array
    reward_accuracy: jax.Array
    held_out_right: jax.Array
    win_rate: jax.Array
    distance: jax.Array
    agrees: jax.Array  # with theorem 4.1


def train(config: Config, width: int, noisy: bool, key, gamma) -> tuple[World, Trace]:
    direction_key, train_key, test_key = jax.random.split(key, 3)
    direction = jax.random.normal(direction_key, (width,))
    direction /= jnp.linalg.norm(direction)
    world = draw_world(train_key, config.prompts, width, direction, noisy)
    held_out = draw_world(test_key, config.prompts, width, direction, noisy)
    optimizer = optax.rmsprop(config.learning_rate, decay=0.99)
    threshold = dpo_ranking_threshold(
        world.reference[:, 0], world.reference[:, 1], beta=config.beta, reference_weight=gamma
    )

    def look(theta):
        logps, held_out_logps = log_policy(world, theta), log_policy(held_out, theta)
        losses = losses_of(world, theta, config.beta, gamma)
        ratios = logps - world.reference
        right = ranking_accuracy(logps[:, 0], logps[:, 1])
        # Where the log-ratio is rounding, either side may say anything.
        clear = jnp.abs(logps[:, 0] - logps[:, 1]) > 1e-3
        return Trace(
            losses.mean(),
            losses_of(held_out, theta, config.beta, gamma).mean(),
            right,
            ranking_accuracy(ratios[:, 0], ratios[:, 1]).mean(),
            ranking_accuracy(held_out_logps[:, 0], held_out_logps[:, 1]).mean(),
            win_rate(held_out, theta),
            jnp.linalg.norm(theta),
            jnp.mean((losses <= threshold) == (right == 1), where=clear),
        )

    def step(carry, _):
        theta, state = carry
        gradient = jax.grad(lambda t: losses_of(world, t, config.beta, gamma).mean())(theta)
        updates, state = optimizer.update(gradient, state)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), look(theta)

    start = jnp.zeros(width)
    _, trace = jax.lax.scan(step, (start, optimizer.init(start)), length=config.steps)
    first = look(start)
    return world, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, trace)
