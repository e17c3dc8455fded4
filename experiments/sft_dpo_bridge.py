"""Does imitation that stays near its reference make DPO better, as Wang et al. say (arXiv:2507.00018)? One can look.

50 prompts with 20 answers each, a table of logits for a policy, rewards r ~ N(0, 1). The base policy knows something:
π₀ ∝ exp(kr + noise). The demonstrator is good and narrow: π_E ∝ exp(2r) on 5 answers of each prompt. In one world it is
better than the base (k = 1/2), in the other worse (k = 2), so that imitation has something to destroy. Imitation of 3
demonstrations a prompt, with SFT at four learning rates and with three f-divergences that keep the KL term, takes 200
steps of Adam each. DPO on 200 Bradley-Terry pairs follows, with what imitation left as start and reference. Pairs are
drawn from π₀, as a data set that was there before, and once more from each imitator itself.

Every learning rate, divergence, β, world and seed is a row of one compiled program. Choices (which smaller rate, which
β) are made on half of the seeds and measured on the other half. A minute, half of that with --quick.

What came of it: the theory holds. After DPO a smaller rate or an f-divergence gains too little to tell (at most 0.03 of
0.97) where the demonstrator is better than the base, and 45 % of the reward where the base is better than the
demonstrator; there the f-divergences cannot be told from the smaller rate.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro

from experiments.claims import Claim, conclude, over_seeds, verdict
from experiments.figures import STYLE
from prefjax.losses import (
    chi_square_sft_loss,
    dpo_loss,
    hellinger_sft_loss,
    jensen_shannon_sft_loss,
    nll_loss,
)
from prefjax.rewards import bradley_terry_probability
from prefjax.train import markdown_table

PROMPTS, ANSWERS, KNOWN, DEMONSTRATIONS, PAIRS = 50, 20, 5, 3, 200
WORLDS = {"good demonstrator": 0.5, "good base": 2.0}  # k: what the base knows
USUAL = 0.1  # the learning rate of imitation that the smaller ones are fractions of
RATES, BETAS = (1.0, 0.3, 0.1, 0.03), (0.1, 0.3, 1.0)
LOSSES = {
    "SFT": lambda logratio, value, beta: nll_loss(logratio),  # up to a constant
    "χ²": lambda logratio, value, beta: chi_square_sft_loss(logratio, value, beta=beta),
    "Hellinger": lambda logratio, value, beta: hellinger_sft_loss(logratio, value, beta=beta),
    "Jensen-Shannon": lambda logratio, value, beta: jensen_shannon_sft_loss(logratio, value, beta=beta),
}


@dataclass(frozen=True)
class Config:
    workdir: Path = Path("runs/sft_dpo_bridge")
    seeds: int = 48
    imitation_steps: int = 200
    dpo_steps: int = 300
    dpo_learning_rate: float = 0.02
    dpo_beta: float = 0.5  # reward per nat away from what imitation left
    quick: bool = False
    """Eight seeds."""


# Of the table, in its order: a program returns its results by the alphabet.
COLUMNS = {
    "KL to the base": "KL to the base after imitation",
    "implicit reward ranks right": "implicit reward ranks right, ties half",
    "implicit reward ranks right, strictly": "implicit reward ranks right, strictly",
    "value after imitation": "reward after imitation",
    "value after DPO, fixed pairs": "reward after DPO, pairs of the base",
    "value after DPO, own pairs": "reward after DPO, pairs of the imitator",
    "KL to the base after DPO": "KL to the base after DPO, pairs of the base",
}


class Arm(NamedTuple):
    """One way to imitate: the place of its loss in LOSSES, its rate, β, and whether V(x) is learned or 0."""

    loss: int | jax.Array
    rate: float | jax.Array
    beta: float | jax.Array
    learns_value: bool | jax.Array

    def __str__(self) -> str:
        name = list(LOSSES)[int(self.loss)]
        if self.loss == 0:
            return f"SFT, rate × {self.rate:g}"
        return f"{name}, β = {self.beta:g}" + (", V learned" if self.learns_value else "")


ARMS = [Arm(0, rate, 1.0, False) for rate in RATES] + [
    Arm(loss, 1.0, beta, learns) for loss in (1, 2, 3) for learns in (False, True) for beta in BETAS
]


class World(NamedTuple):
    reward: jax.Array
    base: jax.Array
    demonstrator: jax.Array


def draw_world(key, knowledge) -> World:
    """Rewards, and the logits of π₀ and of the demonstrator, all [prompts, answers]."""
    reward_key, noise_key, known_key = jax.random.split(key, 3)
    reward, noise = (jax.random.normal(k, (PROMPTS, ANSWERS)) for k in (reward_key, noise_key))
    order = jax.vmap(lambda k: jax.random.permutation(k, ANSWERS))(jax.random.split(known_key, PROMPTS))
    demonstrator = jnp.where(order < KNOWN, 2 * reward, -jnp.inf)
    return World(reward, jax.nn.log_softmax(knowledge * reward + noise), jax.nn.log_softmax(demonstrator))


def adam(loss, params, rate, steps: int):
    """Adam whose rate is traced, full batches."""
    moments = optax.scale_by_adam()

    def step(carry, _):
        params, state = carry
        updates, state = moments.update(jax.grad(loss)(params), state)
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, moments.init(params)), length=steps)
    return params


def imitate(world: World, weights, arm: Arm, steps: int):
    """Logits after imitation. `weights` [prompts, answers]: how much of the demonstrations each answer is."""

    def loss(params):
        logits, value = params
        value = jnp.broadcast_to(jnp.where(arm.learns_value, value, 0.0)[:, None], logits.shape)
        logratio = jax.nn.log_softmax(logits) - world.base
        branches = [lambda x, v, beta, f=f: f(x, v, beta) for f in LOSSES.values()]
        return jnp.sum(weights * jax.lax.switch(arm.loss, branches, logratio, value, arm.beta)) / PROMPTS

    return jax.nn.log_softmax(adam(loss, (world.base, jnp.zeros(PROMPTS)), USUAL * arm.rate, steps)[0])


def draw_pairs(key, world: World, pool):
    """Prompts, better and worse answers: two different answers of `pool`, labelled by Bradley and Terry."""
    prompt_key, answer_key, label_key = jax.random.split(key, 3)
    prompts = jax.random.randint(prompt_key, (PAIRS,), 0, PROMPTS)
    noise = jax.random.gumbel(answer_key, (PAIRS, ANSWERS))
    _, two = jax.lax.top_k(pool[prompts] + noise, 2)
    rewards = world.reward[prompts[:, None], two]
    wins = jax.random.bernoulli(label_key, bradley_terry_probability(rewards[:, 0], rewards[:, 1]))
    chosen, rejected = jnp.where(wins, two[:, 0], two[:, 1]), jnp.where(wins, two[:, 1], two[:, 0])
    return prompts, chosen, rejected


def prefer(config: Config, start, pairs):
    """Logits after DPO from `start`, which is its reference too."""
    prompts, chosen, rejected = pairs

    def loss(logits):
        logratio = jax.nn.log_softmax(logits) - start
        return dpo_loss(logratio[prompts, chosen], logratio[prompts, rejected], beta=config.dpo_beta).mean()

    return jax.nn.log_softmax(adam(loss, start, config.dpo_learning_rate, config.dpo_steps))


def value(world: World, logps):
    return jnp.mean(jnp.sum(jnp.exp(logps) * world.reward, axis=-1))


def kl(logps, other):
    return jnp.mean(jnp.sum(jnp.exp(logps) * (logps - other), axis=-1))


def ranks_right(world: World, scores, among=True, tie=0.01):
    """The share of pairs of answers of one prompt that scores rank as the reward does; of some answers only.

    Adam moves all that was never shown by nearly the same step: smaller differences than `tie` nats are half right.
    """
    gaps, rewards = (x[:, :, None] - x[:, None, :] for x in (scores, world.reward))
    gaps = jnp.where(jnp.abs(gaps) < tie, 0.0, gaps)
    both = jnp.broadcast_to(among, scores.shape)
    both = both[:, :, None] & both[:, None, :] & (rewards != 0)
    return jnp.mean((jnp.sign(gaps) * jnp.sign(rewards) + 1) / 2, where=both)


def run(config: Config, knowledge, key, arm: Arm) -> dict[str, jax.Array]:
    """One seed of one arm; all arms of a seed share world, demonstrations and noise."""
    world_key, demo_key, pair_key = jax.random.split(key, 3)
    world = draw_world(world_key, knowledge)
    drawn = jax.random.categorical(demo_key, world.demonstrator, shape=(DEMONSTRATIONS, PROMPTS))
    weights = jax.nn.one_hot(drawn, ANSWERS).mean(axis=0)
    imitator = imitate(world, weights, arm, config.imitation_steps)
    ended = {
        name: prefer(config, imitator, draw_pairs(pair_key, world, pool))
        for name, pool in (("fixed", world.base), ("own", imitator))
    }
    return {
        "base value": value(world, world.base),
        "value after imitation": value(world, imitator),
        "KL to the base": kl(imitator, world.base),
        "implicit reward ranks right": ranks_right(world, imitator - world.base),
        "implicit reward ranks right, strictly": ranks_right(world, imitator - world.base, tie=0.0),
        **{f"value after DPO, {name} pairs": value(world, logps) for name, logps in ended.items()},
        "KL to the base after DPO": kl(ended["fixed"], world.base),
        "policy": jnp.exp(ended["fixed"]),
        "reward": world.reward,
    }


def converged(config: Config, knowledge, key, arm: Arm) -> dict[str, jax.Array]:
    """With unlimited demonstrations and five times the steps: does the end remember where it began?"""
    world_key, other_key = jax.random.split(key)
    world = draw_world(world_key, knowledge)
    demonstrations, known = jnp.exp(world.demonstrator), jnp.isfinite(world.demonstrator)
    ends = [
        imitate(world._replace(base=base), demonstrations, arm, 5 * config.imitation_steps)
        for base in (world.base, draw_world(other_key, knowledge).base)
    ]
    return {
        "memory": jnp.mean(jnp.abs(jnp.exp(ends[0]) - jnp.exp(ends[1])).sum(axis=-1)) / 2,
        "implicit reward ranks right": ranks_right(world, ends[0] - world.base, among=known),
    }


def main(config: Config) -> dict:
    keys = jax.random.split(jax.random.key(0), 8 if config.quick else config.seeds)
    arms = Arm(*(jnp.array(column) for column in zip(*ARMS, strict=True)))

    def over_all(one, keys):
        """[seeds, arms] of each world."""
        over_arms = jax.vmap(partial(one, config), in_axes=(None, None, 0))
        over_seeds = jax.vmap(over_arms, in_axes=(None, 0, None))
        over_worlds = jax.jit(jax.vmap(over_seeds, in_axes=(0, None, None)))
        results = over_worlds(jnp.array(list(WORLDS.values())), keys, arms)
        return [
            {name: np.asarray(values[i], np.float64) for name, values in results.items()}
            for i in range(len(WORLDS))
        ]

    # What needs no sample differs little from seed to seed.
    results, limits = over_all(run, keys), over_all(converged, keys[: max(4, len(keys) // 8)])
    return report(config, dict(zip(WORLDS, results, strict=True)), limits[0])


def what_theory_says(results: dict[str, np.ndarray], limits: dict[str, np.ndarray]) -> list[Claim]:
    distance, memory = results["KL to the base"], limits["memory"]
    divergences = range(len(RATES), len(ARMS))
    learned = [arm for arm in divergences if ARMS[arm].learns_value]
    far = np.maximum.reduce([distance[:, arm] for arm in divergences])
    least = np.minimum.reduce([memory[:, arm] for arm in learned])
    rank, known = (x["implicit reward ranks right"][:, 0] for x in (results, limits))
    strictly = results["implicit reward ranks right, strictly"][:, 0]
    return [
        Claim(
            "SFT learns an implicit reward: log π/π₀ ranks what is demonstrated without limit",
            f"{over_seeds(known)} of pairs right, 0.5 by chance",
            verdict(known - 0.5),
        ),
        Claim(
            "… and, of few demonstrations, all answers",
            f"{over_seeds(strictly)} of pairs right; {over_seeds(rank)} with ties, see below",
            verdict(strictly - 0.5),
        ),
        Claim(
            "SFT forgets the KL term: its optimum has no memory of π₀",
            f"total variation of two optima {over_seeds(memory[:, 0], within=(0, 1))}, 0.01 allowed",
            verdict(0.01 - memory[:, 0]),
        ),
        Claim(
            "the f-divergences (V learned) keep it",
            f"{over_seeds(least, within=(0, 1))} for the one that keeps least, more than 0.01 asked",
            verdict(least, above=0.01),
        ),
        Claim(
            "… and stay nearer to π₀ than SFT at the same rate",
            f"KL {over_seeds(distance[:, 0] - far)} less: {over_seeds(far, 2)} for the farthest against"
            f" {over_seeds(distance[:, 0], 2)}",
            verdict(distance[:, 0] - far),
        ),
    ]


def what_comes_after(world: str, results: dict[str, np.ndarray]) -> list[Claim]:
    """The claims about DPO from what imitation left. Arm 0 is SFT at the usual rate."""
    choosing, measuring = slice(0, None, 2), slice(1, None, 2)  # halves of the seeds
    final, own = (results[f"value after DPO, {pool} pairs"] for pool in ("fixed", "own"))
    smaller, divergences = range(1, len(RATES)), range(len(RATES), len(ARMS))

    def best(candidates, scores=final) -> int:
        return max(candidates, key=lambda arm: scores[choosing, arm].mean())

    def gain(one: int, other: int, scores=final) -> np.ndarray:
        return (scores[:, one] - scores[:, other])[measuring]

    slow, slow_own, kept = best(smaller), best(smaller, own), best(divergences)
    policies, reward = results["policy"], results["reward"][:, 0]
    chances = 1 / (1 + np.exp(reward[:, :, None, :] - reward[:, :, :, None]))
    wins = np.einsum("spa,spab,spb->s", policies[:, slow], chances, policies[:, 0])[measuring] / PROMPTS
    relative = 100 * gain(slow, 0).mean() / final[measuring, 0].mean()
    return [
        Claim(
            f"{world}: a smaller rate of SFT is better after DPO (up to 25 % of the score)",
            f"× {ARMS[slow].rate:g}: reward {over_seeds(gain(slow, 0))} more, {relative:.0f} %",
            verdict(gain(slow, 0)),
        ),
        Claim(
            "… and wins against the usual one (up to 6 % more)",
            f"win rate {over_seeds(wins, within=(0, 1))}, 0.5 is even",
            verdict(wins - 0.5),
        ),
        Claim(
            "… also where DPO has pairs of the imitator's own",
            f"× {ARMS[slow_own].rate:g}: {over_seeds(gain(slow_own, 0, own))} more",
            verdict(gain(slow_own, 0, own)),
        ),
        Claim(
            f"{world}: an f-divergence is better after DPO than SFT at the same rate",
            f"{ARMS[kept]}: {over_seeds(gain(kept, 0))} more",
            verdict(gain(kept, 0)),
        ),
        Claim(
            "… and than SFT at the best smaller rate (“further”)",
            f"{over_seeds(gain(kept, slow))} more",
            verdict(gain(kept, slow)),
        ),
    ]


UNFINISHED = """

The {memory:.2f} of "{arm}" in the last column is an optimisation that has not ended, no memory of its optimum: SFT has
one optimum, whatever the rate."""


def report(config: Config, worlds: dict[str, dict[str, np.ndarray]], limits: dict[str, np.ndarray]) -> dict:
    first = next(iter(worlds.values()))
    claims = what_theory_says(first, limits)
    sections: dict[str, str] = {}
    data: dict[str, Any] = {"arms": list(map(str, ARMS))}
    figures = []
    for world, results in worlds.items():
        claims += what_comes_after(world, results)
        columns = {heading: results[name] for name, heading in COLUMNS.items()}
        if results is first:
            columns["memory of the reference"] = limits["memory"]
        table = markdown_table(
            ["imitation", *columns],
            [
                [str(a), *(over_seeds(values[:, i], 2) for values in columns.values())]
                for i, a in enumerate(ARMS)
            ],
        )
        base = over_seeds(results["base value"][:, 0])
        sections[f"Every way to imitate: {world}"] = f"The base policy's reward is {base}.\n\n{table}"
        data[world] = {name: results[name].tolist() for name in ("base value", *COLUMNS)}
        if results is first:
            data[world]["memory of the reference"] = limits["memory"].tolist()
            sections[f"Every way to imitate: {world}"] += UNFINISHED.format(
                memory=limits["memory"][:, len(RATES) - 1].mean(), arm=ARMS[len(RATES) - 1]
            )
        figures.append(f"{world.replace(' ', '_')}.png")
        draw(config.workdir / "figures" / figures[-1], results, world)
    seeds, few = len(first["base value"]), len(limits["memory"])
    setting = (
        f"{'--quick: ' if config.quick else ''}{seeds} seeds, {config.imitation_steps:,} steps of imitation, "
        f"{config.dpo_steps:,} of DPO"
    )
    sections["How it was measured"] = (
        "The paper's equations could not be read: the objectives are rederived from the claims of its abstract, and "
        "the first two claims here are our reading of one. A verdict is of the whole 95 % interval over seeds, and "
        "undecided where it has both sides. Where a claim compares the best of several, the best was chosen on one "
        "half of the seeds and measured on the other. Memory of the reference is the total variation between two "
        f"optima, of two references, with unlimited demonstrations: {few} seeds, as for the first claim. Adam moves "
        "all answers that were never shown by nearly the same step; the second claim's verdict ranks them by what is "
        "left, and its second number counts implicit rewards within 0.01 nats of each other as half right. The world "
        "of the good base was added after the other had been seen, to learn what the verdicts depend on. No setting "
        "was changed."
    )
    sections["Figures"] = "\n\n".join(f"![](figures/{name})" for name in figures)
    title = "SFT and DPO (Wang et al., 2025)"
    conclude(config.workdir, title, claims, setting=setting, sections=sections, data=data)
    return data


def draw(path: Path, results: dict[str, np.ndarray], title: str) -> None:
    colours = dict(zip(LOSSES, ("#7f7f7f", "#0072b2", "#d55e00", "#009e73"), strict=True))
    titles = {
        "value after imitation": "reward after imitation",
        "value after DPO, fixed pairs": "after DPO, pairs of the base",
        "value after DPO, own pairs": "after DPO, pairs of the imitator",
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.0), layout="constrained", sharex=True)
        for axis, (name, place) in zip(axes, titles.items(), strict=True):
            for number, (loss, colour) in enumerate(colours.items()):
                for learns in (False, True):
                    some = [i for i, a in enumerate(ARMS) if (a.loss, a.learns_value) == (number, learns)]
                    if some:
                        values = results[name][:, some]
                        axis.errorbar(
                            results["KL to the base"][:, some].mean(0), values.mean(0),
                            2 * values.std(0, ddof=1) / np.sqrt(len(values)), fmt="s--" if learns else "o-", ms=3.5,
                            lw=1, color=colour, mfc="white" if learns else colour,
                            label=loss + (", V learned" if learns else ""),
                        )  # fmt: skip
            axis.axhline(results["base value"].mean(), color="k", lw=0.8, ls=":")
            axis.set(title=f"{place}, ± 2 s.e.", xlabel="KL of the imitator to the base, nats")
        axes[0].legend(fontsize=6.5)
        figure.suptitle(title, x=0.01, ha="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Config))
