"""Which losses on pairs find π₀ exp(u/β), how fast, and with how many wrong labels? On a bandit one can look.

    python -m experiments.loss_zoo             # all of prefjax.align.PAIRED_LOSSES
    python -m experiments.loss_zoo --quick     # six of them, briefly

Twenty contexts, ten answers each, reference logits and utilities from N(0, 1); pairs are drawn from the reference and
labelled by Bradley-Terry, some labels flipped. The policy is a table of logits, the data a table of how often each
answer beat each other one. Seeds, β, number of pairs and share of flips are swept in one program for each loss.
"Before", in the report, are numbers of another program for such a world.
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
from jaxtyping import Array, Float, Int

from experiments.claims import conclude
from experiments.loss_zoo_report import claims_of, draw_figures, tables_of
from prefjax.align import PAIRED_LOSSES, PairedLoss, call_by_name, paired_terms
from prefjax.types import Weighted

CONTEXTS, ANSWERS, MOST, DRAWN = 20, 10, 20_000, 256
BETA = 0.5
# One token an answer, all of one length: these are then the same losses as others.
SAME_HERE = {
    "sigmoid_norm": "sigmoid", "length_regularised_dpo": "sigmoid", "dno_prct": "sigmoid", "tdpo1": "sigmoid",
    "iterated_dpo": "rpo",
}  # fmt: skip
FEW = ("sigmoid", "cdpo", "robust", "ipo", "nca_pair", "apo_zero")


@dataclass(frozen=True)
class Config:
    seeds: int = 4
    """Worlds, each with data of its own."""
    steps: int = 1000
    """Of Adam, on all pairs at once."""
    learning_rate: float = 0.05
    """Of logits, constant."""
    records: int = 20
    """Looks at the policy on the way, ever further apart."""
    workdir: str = "runs/loss_zoo"
    """report.md, report.json, figures/*.png"""
    quick: bool = False
    """Six losses, two seeds, 300 steps: seconds, and numbers that mean little."""


class Setting(NamedTuple):
    """One point of the sweep."""

    beta: float = BETA
    pairs: int = 2000
    flips: float = 0.0


# A star: each axis from one centre.
SETTINGS = [
    *(Setting(beta=beta) for beta in (0.05, 0.08, 0.12, 0.2, 0.3, BETA, 0.8, 1.2, 2.0, 3.0, 5.0)),
    *(Setting(pairs=MOST, flips=flips) for flips in (0.0, 0.1, 0.2, 0.3)),
    Setting(pairs=200),
]


class World(NamedTuple):
    """What is true, and what was seen of it."""

    reference: Float[Array, "*runs C K"]  # log π₀
    utility: Float[Array, "*runs C K"]
    counts: Float[Array, "*runs C K K"]  # how often which answer beat which


@partial(jax.jit, static_argnums=0)
def make_worlds(seeds: int, pairs: Float[Array, " R"], flips: Float[Array, " R"]) -> World:
    """[settings, seeds, …]: the same worlds for every setting; fewer pairs are the first of more."""

    def one(pairs, flips, seed):
        keys = jax.random.split(jax.random.key(seed), 7)
        reference = jax.nn.log_softmax(jax.random.normal(keys[0], (CONTEXTS, ANSWERS)))
        utility = jax.random.normal(keys[1], (CONTEXTS, ANSWERS))
        context = jax.random.randint(keys[2], (MOST,), 0, CONTEXTS)
        first, second = (jax.random.categorical(k, reference[context]) for k in keys[3:5])
        gap = utility[context, first] - utility[context, second]
        first_won = jax.random.uniform(keys[5], (MOST,)) < jax.nn.sigmoid(gap)
        first_won = first_won != (jax.random.uniform(keys[6], (MOST,)) < flips)
        chosen, rejected = jnp.where(first_won, first, second), jnp.where(first_won, second, first)
        seen = (jnp.arange(MOST) < pairs) & (chosen != rejected)
        nothing = jnp.zeros((CONTEXTS, ANSWERS, ANSWERS))
        return World(reference, utility, nothing.at[context, chosen, rejected].add(seen))

    over_seeds = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(over_seeds, in_axes=(0, 0, None))(pairs, flips, jnp.arange(seeds))


Drawn = tuple[Int[Array, " N"], Int[Array, " N"], Int[Array, " N"]]  # context, chosen, rejected


def of_pairs(table: Float[Array, "C K"], drawn: Drawn | None) -> Float[Array, "... 2"]:
    """A number of answers for (chosen, rejected) of pairs that were drawn; or of all that there can be, [C, K, K]."""
    if drawn is not None:
        context, chosen, rejected = drawn
        return jnp.stack([table[context, chosen], table[context, rejected]], axis=-1)
    # No look-up: its gradient would be a scatter, which takes ten times as long as all the rest.
    whole = CONTEXTS, ANSWERS, ANSWERS
    both = (jnp.broadcast_to(table[:, :, None], whole), jnp.broadcast_to(table[:, None, :], whole))
    return jnp.stack(both, axis=-1)


def losses_of(
    paired: PairedLoss, world: World, logits, drawn: Drawn | None, weight, *, beta, flips, **settings
):
    """The loss of every pair, given all that one may ask for."""
    logp = jax.nn.log_softmax(logits)
    beats = jax.nn.sigmoid(world.utility[:, :, None] - world.utility[:, None, :])
    win_rate = jnp.einsum("ck,cjk->cj", jnp.exp(world.reference), beats)
    wins = of_pairs((1 - flips) * win_rate + flips * (1 - win_rate), drawn)
    kl = jnp.sum(jnp.exp(world.reference) * (world.reference - logp), axis=-1, keepdims=True)
    own, theirs, utility = (of_pairs(table, drawn) for table in (logp, world.reference, world.utility))
    one = jnp.ones_like(own)
    sides = {
        "logp": own, "reference_logp": theirs, "length": one, "logps": own[..., None], "mask": one[..., None],
        "reference_logps": theirs[..., None], "kl": of_pairs(jnp.broadcast_to(kl, logp.shape), drawn),
    }  # fmt: skip
    words = {
        "mean_length": jnp.ones(()),
        # ODPO's α log(score gap), and win rates of a judge that errs as the labels do.
        "offset": 0.5 * jnp.log(jnp.maximum(jnp.abs(utility[..., 0] - utility[..., 1]), 1e-2)),
        "chosen_win_rate": wins[..., 0],
        "rejected_win_rate": wins[..., 1],
    }
    if paired.statistics is not None:
        ratio = jax.lax.stop_gradient(own - theirs)
        words |= call_by_name(
            paired.statistics,
            chosen_logratio=ratio[..., 0],
            rejected_logratio=ratio[..., 1],
            mask=weight,
            beta=beta,
        )
    terms = paired_terms(
        paired, sides, weight, beta=beta, words=words, likelihood=paired.likelihood, **settings
    )
    return terms["loss"]


def mean_loss(paired: PairedLoss, world: World, logits, key, **numbers) -> Float[Array, ""]:
    """Over all pairs, by their counts; or over some that are drawn, for a loss that mixes them."""
    if paired.coupled or paired.statistics is not None:
        below = jnp.cumsum(world.counts.reshape(-1))
        cells = jnp.searchsorted(below, below[-1] * jax.random.uniform(key, (DRAWN,)), side="right")
        context, chosen, rejected = jnp.unravel_index(cells, world.counts.shape)
        drawn = context, chosen, rejected
        return jnp.mean(losses_of(paired, world, logits, drawn, jnp.ones(DRAWN), **numbers))
    return Weighted.of(losses_of(paired, world, logits, None, world.counts, **numbers), world.counts).mean()


def marks(config: Config) -> list[int]:
    """The steps after which policies are looked at."""
    return sorted({round(step) for step in np.geomspace(3, config.steps, config.records)})


@partial(jax.jit, static_argnums=(0, 1))
def sweep(name: str, config: Config, worlds: World, beta, flips) -> Float[Array, "R seeds records C K"]:
    """The policies of one loss on the way, all settings and all seeds at once."""
    paired = PAIRED_LOSSES["sigmoid" if name == "cdpo" else name]
    optimizer = optax.adam(config.learning_rate)

    def one(world, beta, flips, key):
        # Who can be told the share of wrong labels, is.
        smoothing = {"cdpo": flips, "robust": flips, "exo_pair": 1e-3}.get(name, 0.0)

        def step(i, carry):
            logits, state = carry
            grads = jax.grad(partial(mean_loss, paired, world))(
                logits, jax.random.fold_in(key, i), beta=beta, flips=flips, label_smoothing=smoothing
            )
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(logits, updates), state

        def look(carry, between):
            begin, end = between
            carry = jax.lax.fori_loop(begin, end, step, carry)
            return carry, carry[0]

        start = world.reference, optimizer.init(world.reference)
        ends = jnp.asarray([0, *marks(config)])
        return jax.lax.scan(look, start, (ends[:-1], ends[1:]))[1]

    keys = jax.random.split(jax.random.key(config.seeds), config.seeds)
    over_seeds = jax.vmap(one, in_axes=(0, None, None, 0))
    return jax.vmap(over_seeds, in_axes=(0, 0, 0, None))(worlds, beta, flips, keys)


def measured(world: World, policies, beta) -> dict[str, Float[Array, "..."]]:
    """How far policies [records, C, K] of one run went, what they gained, and how far they are from where they should
    be: from π₀ exp(u/β), and from the nearest π₀ exp(u/τ)."""

    def one(logits):
        logp = jax.nn.log_softmax(logits)
        policy = jnp.exp(logp)

        def distance(price):
            optimum = jax.nn.softmax(world.reference + world.utility / price)
            return jnp.mean(jnp.sum(jnp.abs(policy - optimum), axis=-1)) / 2

        moved = jnp.sum(world.counts, axis=-1) * (logp - world.reference)
        return {
            "kl": jnp.mean(jnp.sum(policy * (logp - world.reference), axis=-1)),
            "utility": jnp.mean(jnp.sum(policy * world.utility, axis=-1)),
            "tv": distance(beta),
            "nearest": jnp.min(jax.vmap(distance)(jnp.geomspace(0.02, 50.0, 60))),
            "chosen": jnp.sum(moved) / jnp.sum(world.counts),
        }

    return jax.vmap(one)(policies)


measure = jax.jit(jax.vmap(jax.vmap(measured, in_axes=(0, 0, None)), in_axes=(0, 0, 0)))


def optima(worlds: World) -> dict[str, np.ndarray]:
    """KL and utility of π₀ exp(u/τ), [seeds, prices], of the same worlds; the first price is the β of the tables, the
    last nearly π₀."""
    prices = jnp.asarray([BETA, *np.geomspace(0.05, 50.0, 40)])
    one = jax.tree.map(lambda leaf: leaf[0], worlds)  # of all settings the same
    best = one.reference[None] + one.utility[None] / prices[:, None, None, None]
    found = measure(
        jax.tree.map(lambda leaf: leaf[None], one), jnp.moveaxis(best, 0, 1)[None], jnp.asarray([BETA])
    )
    return {name: np.asarray(values[0]) for name, values in found.items()}


def main(config: Config) -> Mapping[str, Mapping[str, np.ndarray]]:
    if config.quick:
        config = Config(seeds=2, steps=300, records=12, workdir=config.workdir, quick=True)
    names = list(FEW) if config.quick else ["cdpo", *(n for n in PAIRED_LOSSES if n not in SAME_HERE)]
    columns = [jnp.asarray(column, jnp.float32) for column in zip(*SETTINGS, strict=True)]
    beta, pairs, flips = columns
    worlds = make_worlds(config.seeds, pairs, flips)
    found: dict[str, dict[str, np.ndarray]] = {}
    began = time.perf_counter()
    for i, name in enumerate(names):
        policies = sweep(name, config, worlds, beta, flips)
        found[name] = {metric: np.asarray(value) for metric, value in measure(worlds, policies, beta).items()}
        print(f"\r{i + 1} of {len(names)} losses, {time.perf_counter() - began:.0f} s ", end="", flush=True)
    print()
    best, workdir = optima(worlds), Path(config.workdir)
    draw_figures(workdir / "figures", found, best, SETTINGS, marks(config))
    data = {"settings": [s._asdict() for s in SETTINGS], "optimum": best, "found": found}
    conclude(
        workdir, "Losses on pairs against π₀ exp(u/β)", claims_of(found, best, SETTINGS, marks(config)),
        setting=f"{'--quick: ' if config.quick else ''}{config.seeds} seeds, {config.steps:,} steps",
        sections=tables_of(found, best, SETTINGS, SAME_HERE),
        data=jax.tree.map(lambda leaf: leaf.tolist() if isinstance(leaf, np.ndarray) else leaf, data),
    )  # fmt: skip
    return found


if __name__ == "__main__":
    main(tyro.cli(Config))
