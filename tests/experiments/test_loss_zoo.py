"""The zoo of losses on a bandit: its worlds, the losses that are one here, and a short sweep from end to end."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.loss_zoo import (
    SAME_HERE,
    SETTINGS,
    Config,
    losses_of,
    make_worlds,
    marks,
    measure,
    optima,
    sweep,
)
from experiments.loss_zoo_report import FAMILIES, claims_of, draw_figures, tables_of
from prefjax.align import PAIRED_LOSSES

BETA, PAIRS, FLIPS = (jnp.asarray(column, jnp.float32) for column in zip(*SETTINGS, strict=True))


def test_labels_are_of_bradley_terry_and_some_are_wrong():
    worlds = make_worlds(2, PAIRS, FLIPS)
    drawn = np.asarray(worlds.counts.sum(axis=(-3, -2, -1)))
    assert (drawn < np.asarray(PAIRS)[:, None]).all()  # equal answers are dropped
    assert (drawn > 0.6 * np.asarray(PAIRS)[:, None]).all()
    for place, setting in enumerate(SETTINGS):
        if setting.pairs < 20_000:
            continue
        counts, utility = np.asarray(worlds.counts[place]), np.asarray(worlds.utility[place])
        p = 1 / (1 + np.exp(utility[:, :, None, :] - utility[:, :, :, None]))
        p = p * (1 - setting.flips) + (1 - p) * setting.flips
        both = counts + np.swapaxes(counts, -1, -2)
        z = (counts - both * p) / np.sqrt(np.maximum(both * p * (1 - p), 1e-9))
        assert 0.9 < np.std(z[both > 20]) < 1.1
    # Fewer pairs are the first of more.
    few, many = (
        next(i for i, s in enumerate(SETTINGS) if s.pairs == n and s.flips == 0) for n in (200, 20_000)
    )
    assert (worlds.counts[few] <= worlds.counts[many]).all()
    assert (worlds.utility[few] == worlds.utility[many]).all()


def test_with_one_token_these_are_the_same_losses():
    world = jax.tree.map(lambda leaf: leaf[0, 0], make_worlds(1, PAIRS[:1], FLIPS[:1]))
    logits = world.reference + jax.random.normal(jax.random.key(1), world.reference.shape)
    for name, other in SAME_HERE.items():
        ours, theirs = (
            losses_of(PAIRED_LOSSES[n], world, logits, None, world.counts, beta=0.7, flips=0.0)
            for n in (name, other)
        )
        seen = world.counts > 0
        np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-5, err_msg=name)


def test_every_loss_is_in_a_figure():
    drawn = {name for names in FAMILIES.values() for name in names}
    assert drawn == {"cdpo", *PAIRED_LOSSES} - set(SAME_HERE)


def test_a_short_sweep(tmp_path):
    config = Config(seeds=2, steps=60, records=4)
    worlds = make_worlds(config.seeds, PAIRS, FLIPS)
    found = {}
    for name in ("sigmoid", "cdpo", "robust", "ipo"):
        policies = sweep(name, config, worlds, BETA, FLIPS)
        found[name] = {metric: np.asarray(v) for metric, v in measure(worlds, policies, BETA).items()}
    best = optima(worlds)
    clean = next(i for i, s in enumerate(SETTINGS) if s.pairs == 20_000 and s.flips == 0)
    # On its way to the optimum, and nearer with every look.
    assert (np.diff(found["sigmoid"]["tv"][clean].mean(axis=0)) < 0).all()
    assert found["sigmoid"]["tv"][clean, :, -1].mean() < 0.3
    # Nothing beats the family of optima at its own KL.
    kl, utility = (best[metric].mean(axis=0) for metric in ("kl", "utility"))
    order = np.argsort(kl)
    for one in found.values():
        bound = np.interp(one["kl"].mean(axis=1), kl[order], utility[order])
        assert (one["utility"].mean(axis=1) <= bound + 0.02).all()
    claims = claims_of(found, best, SETTINGS, marks(config))
    assert len(claims) == 8
    assert {claim.held for claim in claims} <= {True, False, None}
    assert "| sigmoid |" in "".join(tables_of(found, best, SETTINGS, SAME_HERE).values()).replace("  ", "")
    draw_figures(tmp_path, found, best, SETTINGS, marks(config))
    assert {path.name for path in tmp_path.iterdir()} == {"kl_utility.png", "steps.png", "noise.png"}
