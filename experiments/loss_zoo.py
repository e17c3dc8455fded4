"""Which losses on pairs find π₀ exp(u/β), how fast, and with how many wrong labels? On a bandit one can look.

    python -m experiments.loss_zoo             # all of prefjax.align.PAIRED_LOSSES
    python -m experiments.loss_zoo --quick     # eight of them, briefly

Twenty contexts, ten answers each, reference logits and utilities from N(0, 1); pairs are drawn from the reference and
labelled by Bradley-Terry, some labels flipped. The policy is a table of logits, the data a table of how often each
answer beat each other one. Seeds, β, number of pairs and share of flips are swept in one program for each loss.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Int, Key

from experiments.claims import conclude
from experiments.loss_zoo_report import claims_of, draw_figures, tables_of
from prefjax.align import PAIRED_LOSSES, PairedLoss, paired_terms
from prefjax.align.paired_losses import call_by_name
from prefjax.types import Weighted

CONTEXTS, ANSWERS, MOST, DRAWN = 20, 10, 20_000, 512
BETA = 0.5
# One token an answer, all of one length: these are then the same losses as others.
SAME_HERE = {
    "sigmoid_norm": "sigmoid", "length_regularised_dpo": "sigmoid", "dno_prct": "sigmoid", "tdpo1": "sigmoid",
    "iterated_dpo": "rpo",
}  # fmt: skip
FEW = ("sigmoid", "cdpo", "robust", "ipo", "hinge", "nca_pair", "bco_pair", "apo_zero")


@dataclass(frozen=True)
class Config:
    seeds: int = 4
    """Worlds, each with data of its own."""
    steps: int = 1000
    """Of Adam, on all pairs at once."""
    learning_rate: float = 0.05
    """Of logits, constant."""
    records: int = 20
    """Looks at the policy on the way."""
    workdir: str = "runs/loss_zoo"
    """report.md, report.json, figures/*.png"""
    quick: bool = False
    """Eight losses, two seeds, 300 steps: seconds, and numbers that mean little."""


class Setting(NamedTuple):
    """One point of the sweep."""

    beta: float = BETA
    pairs: int = 2000
    flips: float = 0.0


# A star: each axis from one centre.
SETTINGS = [
    *(Setting(beta=beta) for beta in (0.05, 0.15, BETA, 1.5, 5.0)),
    *(Setting(pairs=MOST, flips=flips) for flips in (0.0, 0.1, 0.2, 0.3)),
    Setting(pairs=200),
]


class World(NamedTuple):
    """What is true, and what was seen."""

    reference: Float[Array, "C K"]  # log π₀
    utility: Float[Array, "C K"]
    context: Int[Array, " N"]
    first: Int[Array, " N"]
    second: Int[Array, " N"]
    first_won: Float[Array, " N"]  # a uniform draw below P(first ≻ second): without flips it won
    flipped: Float[Array, " N"]  # another, below the share of flips where the label is wrong


def make_world(key: Key[Array, ""]) -> World:
    keys = jax.random.split(key, 7)
    reference = jax.nn.log_softmax(jax.random.normal(keys[0], (CONTEXTS, ANSWERS)))
    utility = jax.random.normal(keys[1], (CONTEXTS, ANSWERS))
    context = jax.random.randint(keys[2], (MOST,), 0, CONTEXTS)
    first, second = (jax.random.categorical(k, reference[context]) for k in keys[3:5])
    gap = utility[context, first] - utility[context, second]
    won = (jax.random.uniform(keys[5], (MOST,)) < jax.nn.sigmoid(gap)).astype(jnp.float32)
    return World(reference, utility, context, first, second, won, jax.random.uniform(keys[6], (MOST,)))


class Seen(NamedTuple):
    """The labelled pairs of one setting."""

    context: Int[Array, " N"]
    chosen: Int[Array, " N"]
    rejected: Int[Array, " N"]
    weight: Float[Array, " N"]
    counts: Float[Array, "C K K"]  # how often which answer beat which


def labelled(world: World, pairs: Int[Array, ""], flips: Float[Array, ""]) -> Seen:
    first_won = (world.first_won > 0) != (world.flipped < flips)
    chosen = jnp.where(first_won, world.first, world.second)
    rejected = jnp.where(first_won, world.second, world.first)
    weight = ((jnp.arange(MOST) < pairs) & (chosen != rejected)).astype(jnp.float32)
    counts = jnp.zeros((CONTEXTS, ANSWERS, ANSWERS)).at[world.context, chosen, rejected].add(weight)
    return Seen(world.context, chosen, rejected, weight, counts)


def pair_terms(paired: PairedLoss, world: World, logits, context, chosen, rejected, weight, *, beta, flips, **settings):
    """`paired_terms` of pairs of answers, with all that a loss may ask for."""
    logp = jax.nn.log_softmax(logits)
    win_rate = jnp.einsum(
        "ck,cjk->cj", jnp.exp(world.reference), jax.nn.sigmoid(world.utility[:, :, None] - world.utility[:, None, :])
    )
    win_rate = (1 - flips) * win_rate + flips * (1 - win_rate)
    kl = jnp.sum(jnp.exp(world.reference) * (world.reference - logp), axis=-1)

    def of_both(table):
        return jnp.stack([table[context, chosen], table[context, rejected]], axis=-1)

    one = jnp.ones((*weight.shape, 2))
    own, theirs, wins = of_both(logp), of_both(world.reference), of_both(win_rate)
    gap = jnp.abs(world.utility[context, chosen] - world.utility[context, rejected])
    sides = {
        "logp": own, "reference_logp": theirs, "length": one, "logps": own[..., None], "mask": one[..., None],
        "reference_logps": theirs[..., None], "kl": kl[context][..., None] * one,
    }  # fmt: skip
    words = {
        "mean_length": jnp.ones(()),
        # ODPO's α log(score gap), and win rates of a judge that errs as the labels do.
        "offset": 0.5 * jnp.log(jnp.maximum(gap, 1e-2)),
        "chosen_win_rate": wins[..., 0],
        "rejected_win_rate": wins[..., 1],
    }
    if paired.statistics is not None:
        ratio = jax.lax.stop_gradient(own - theirs)
        words |= call_by_name(
            paired.statistics, chosen_logratio=ratio[..., 0], rejected_logratio=ratio[..., 1], mask=weight, beta=beta
        )
    return paired_terms(
        paired, sides, weight, beta=beta, words=words, likelihood=paired.likelihood, **settings
    )["loss"]


def whole_loss(paired, world, seen, logits, key, **numbers):
    """The mean over all pairs, by their counts; or over some that are drawn, where pairs are mixed."""
    if paired.coupled or paired.statistics is not None:
        some = jax.random.choice(key, MOST, (DRAWN,), p=seen.weight / jnp.sum(seen.weight))
        which = seen.context[some], seen.chosen[some], seen.rejected[some]
        return jnp.mean(pair_terms(paired, world, logits, *which, jnp.ones(DRAWN), **numbers))
    which = jnp.meshgrid(jnp.arange(CONTEXTS), jnp.arange(ANSWERS), jnp.arange(ANSWERS), indexing="ij")
    return Weighted.of(pair_terms(paired, world, logits, *which, seen.counts, **numbers), seen.counts).mean()


def measured(world: World, seen: Seen, logits, beta) -> dict[str, Float[Array, ""]]:
    """How far a policy went, what it gained, and how far it is from where it should be."""
    logp = jax.nn.log_softmax(logits)
    policy = jnp.exp(logp)

    def distance(price):
        optimum = jax.nn.softmax(world.reference + world.utility / price)
        return jnp.mean(jnp.sum(jnp.abs(policy - optimum), axis=-1)) / 2

    moved = jnp.sum(seen.counts, axis=-1) * (logp - world.reference)
    return {
        "kl": jnp.mean(jnp.sum(policy * (logp - world.reference), axis=-1)),
        "utility": jnp.mean(jnp.sum(policy * world.utility, axis=-1)),
        "tv": distance(beta),
        "nearest": jnp.min(jax.vmap(distance)(jnp.geomspace(0.02, 50.0, 60))),
        "chosen": jnp.sum(moved) / jnp.sum(seen.counts),
    }


@partial(jax.jit, static_argnums=(0, 1))
def sweep(name: str, config: Config, beta, pairs, flips) -> dict[str, Float[Array, "settings seeds records"]]:
    """One loss, all settings, all seeds."""
    paired = PAIRED_LOSSES["sigmoid" if name == "cdpo" else name]
    optimizer = optax.adam(config.learning_rate)

    def one(beta, pairs, flips, key):
        world_key, train_key = jax.random.split(key)
        world = make_world(world_key)
        seen = labelled(world, pairs, flips)
        # Who can be told the share of wrong labels, is.
        smoothing = {"cdpo": flips, "robust": flips, "exo_pair": 1e-3}.get(name, 0.0)

        def step(i, carry):
            logits, state = carry
            grads = jax.grad(partial(whole_loss, paired, world, seen))(
                logits, jax.random.fold_in(train_key, i), beta=beta, flips=flips, label_smoothing=smoothing
            )
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(logits, updates), state

        every = config.steps // config.records

        def look(carry, record):
            carry = jax.lax.fori_loop(record * every, (record + 1) * every, step, carry)
            return carry, measured(world, seen, carry[0], beta)

        start = world.reference, optimizer.init(world.reference)
        return jax.lax.scan(look, start, jnp.arange(config.records))[1]

    keys = jax.random.split(jax.random.key(0), config.seeds)
    over_seeds = jax.vmap(one, in_axes=(None, None, None, 0))
    return jax.vmap(over_seeds, in_axes=(0, 0, 0, None))(beta, pairs, flips, keys)


def optima(seeds: int) -> dict[str, np.ndarray]:
    """KL and utility of π₀ exp(u/β), [prices], a mean over the same worlds."""
    keys = jax.vmap(lambda key: jax.random.split(key)[0])(jax.random.split(jax.random.key(0), seeds))

    def at(price, key):
        world = make_world(key)
        logp = jax.nn.log_softmax(world.reference + world.utility / price)
        return {
            "kl": jnp.mean(jnp.sum(jnp.exp(logp) * (logp - world.reference), axis=-1)),
            "utility": jnp.mean(jnp.sum(jnp.exp(logp) * world.utility, axis=-1)),
        }

    prices = jnp.asarray([BETA, *np.geomspace(0.05, 50.0, 40)])
    found = jax.jit(jax.vmap(jax.vmap(at, in_axes=(None, 0)), in_axes=(0, None)))(prices, keys)
    return {name: np.asarray(values.mean(axis=1)) for name, values in found.items()}


def main(config: Config) -> Mapping[str, Mapping[str, np.ndarray]]:
    if config.quick:
        config = Config(seeds=2, steps=300, records=10, workdir=config.workdir, quick=True)
    names = list(FEW) if config.quick else ["cdpo", *(n for n in PAIRED_LOSSES if n not in SAME_HERE)]
    columns = [jnp.asarray(column, jnp.float32) for column in zip(*SETTINGS, strict=True)]
    found, began = {}, time.perf_counter()
    for i, name in enumerate(names):
        found[name] = {metric: np.asarray(v) for metric, v in sweep(name, config, *columns).items()}
        print(f"\r{i + 1} of {len(names)} losses, {time.perf_counter() - began:.0f} s ", end="", flush=True)
    print()
    best, workdir = optima(config.seeds), Path(config.workdir)
    draw_figures(workdir / "figures", found, best, SETTINGS, config.steps)
    data = {"settings": [s._asdict() for s in SETTINGS], "optimum": best, "found": found}
    conclude(
        workdir, "Losses on pairs against π₀ exp(u/β)", claims_of(found, best, SETTINGS),
        sections=tables_of(found, best, SETTINGS, SAME_HERE),
        data=jax.tree.map(lambda leaf: leaf.tolist() if isinstance(leaf, np.ndarray) else leaf, data),
    )  # fmt: skip
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
