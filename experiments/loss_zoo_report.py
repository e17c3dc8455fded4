"""What `experiments.loss_zoo` says: claims, tables and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.claims import Claim, every, over_seeds, verdict
from experiments.figures import STYLE
from prefjax.train import markdown_table

Found = Mapping[str, Mapping[str, np.ndarray]]  # by loss and metric, [settings, seeds, records]
Settings = Sequence[Any]

FAMILIES = {
    "of the difference, logistic": (
        "sigmoid",
        "cdpo",
        "robust",
        "aot",
        "aot_unpaired",
        "tdpo2",
        "dynamic_beta",
    ),
    "of the difference, other shapes": ("ipo", "hinge", "exo_pair", "discopop", "dpop", "odpo"),
    "anchored to the reference": (
        "nca_pair",
        "bco_pair",
        "bco_pair_shift",
        "apo_zero",
        "apo_down",
        "sppo_hard",
    ),
    "given win rates; with imitation": ("sppo", "dno", "rpo", "cpo", "orpo", "unlikelihood"),
    "no reference": ("simpo", "alphapo", "cpl", "slic"),
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
ALIKE = 0.3  # nats at which policies are compared
METRICS = ("kl", "utility", "tv", "nearest", "chosen")


def place_of(settings: Settings, **wanted: float) -> int:
    """Where in the sweep a setting is."""
    return next(i for i, s in enumerate(settings) if all(getattr(s, k) == v for k, v in wanted.items()))


def axis_of(settings: Settings, name: str, **fixed: float) -> list[int]:
    """The places that differ along one axis, in its order."""
    places = [i for i, s in enumerate(settings) if all(getattr(s, k) == v for k, v in fixed.items())]
    return sorted(places, key=lambda i: getattr(settings[i], name))


def utility_at(kl: np.ndarray, utility: np.ndarray, wanted: float) -> float:
    """A curve over β read at some KL; nan where it does not reach it."""
    order = np.argsort(kl)
    if not kl.min() <= wanted <= kl.max():
        return float("nan")
    return float(np.interp(wanted, kl[order], utility[order]))


def claims_of(
    found: Found, best: Mapping[str, np.ndarray], settings: Settings, marks: Sequence[int]
) -> list[Claim]:
    """What derivation, an earlier run and papers say must show."""
    few, some, many = (place_of(settings, beta=0.5, pairs=n, flips=0.0) for n in (200, 2000, 20_000))
    noisy = place_of(settings, flips=0.2)
    dpo, ipo = found["sigmoid"], found["ipo"]
    tv = [dpo["tv"][i, :, -1] for i in (few, some, many)]
    over = dpo["kl"][some, :, -1] - best["kl"][:, 0]
    third = int(np.searchsorted(marks, marks[-1] / 3))
    late, early = (dpo["chosen"][few, :, at] for at in (-1, third))
    moved = np.abs(ipo["kl"][few, :, -1] / ipo["kl"][few, :, third] - 1)
    told = ("sigmoid", "cdpo", "robust")
    spent, gain, off = ({n: found[n][m][noisy, :, -1] for n in told} for m in ("kl", "utility", "tv"))
    clean = {m: dpo[m][many, :, -1] for m in ("kl", "utility", "tv")}
    better, recovered = gain["robust"] - gain["sigmoid"], gain["robust"] - clean["utility"]
    nearer = off["sigmoid"] - off["robust"]
    less, lost = spent["sigmoid"] - spent["cdpo"], gain["sigmoid"] - gain["cdpo"]
    return [
        Claim(
            "sigmoid nears π₀ exp(u/β) as pairs grow: total variation at 200, 2,000, 20,000 (before: –, 0.43, 0.12)",
            "; ".join(over_seeds(values, 2, within=(0, 1)) for values in tv)
            + f"; falls by {over_seeds(tv[0] - tv[1], 2)} and {over_seeds(tv[1] - tv[2], 2)}",
            every(verdict(tv[0] - tv[1]), verdict(tv[1] - tv[2])),
        ),
        Claim(
            "with 2,000 pairs it overshoots the KL of its optimum (before: 1.83 of 0.90)",
            f"by {over_seeds(over, 2)}: {np.mean(over + best['kl'][:, 0]):.2f} of {best['kl'][:, 0].mean():.2f}",
            verdict(over),
        ),
        Claim(
            "with 200 pairs it never rests: log π of the chosen keeps falling, from a third of the steps to the end",
            f"by {over_seeds(early - late, 2)}: {early.mean():.2f} → {late.mean():.2f}",
            verdict(early - late),
        ),
        Claim(
            "where IPO's solution stays: its KL changes by less than 2 %",
            over_seeds(100 * moved, within=(0, np.inf)) + " %",
            verdict(0.02 - moved),
        ),
        Claim(
            "20 % of labels flipped: robust, told so, recovers clean labels' utility, to 0.1 (before: 1.17 of 1.11)",
            f"{over_seeds(recovered, 2)} more than with clean labels, {gain['robust'].mean():.2f} of"
            f" {clean['utility'].mean():.2f}; {over_seeds(better, 2)} more than sigmoid",
            every(verdict(recovered, above=-0.1), verdict(better)),
        ),
        Claim(
            "… and is nearer to π₀ exp(u/β) than sigmoid, which is told nothing",
            f"total variation {over_seeds(nearer)} less: {off['robust'].mean():.2f} against"
            f" {off['sigmoid'].mean():.2f}, {clean['tv'].mean():.2f} with clean labels;"
            f" KL {spent['robust'].mean():.2f}, clean {clean['kl'].mean():.2f}",
            verdict(nearer),
        ),
        Claim(
            "cDPO, told the same, is more careful than sigmoid: a shrinkage, no correction (KL; before: 0.13, 0.43)",
            f"KL {over_seeds(less, 2)} less, {spent['cdpo'].mean():.2f} against {spent['sigmoid'].mean():.2f}; utility"
            f" {over_seeds(lost, 2)} less",
            every(verdict(less), verdict(lost)),
        ),
        one_currency(found, settings),
        *caught(found, best, place_of(settings, beta=0.05)),
    ]  # fmt: skip


def one_currency(found: Found, settings: Settings) -> Claim:
    """Whether KL is a better scale than β to compare losses on, seed by seed, of the losses that reach `ALIKE`."""
    some, curve = place_of(settings, beta=0.5, pairs=2000), axis_of(settings, "beta", pairs=2000, flips=0.0)
    # Where no label is flipped, these two are sigmoid.
    several = [one for name, one in found.items() if name not in ("cdpo", "robust")]
    spreads, reached = [], []
    for seed in range(found["sigmoid"]["kl"].shape[1]):
        at_kl = [
            utility_at(one["kl"][curve, seed, -1], one["utility"][curve, seed, -1], ALIKE) for one in several
        ]
        there = np.isfinite(at_kl)
        reached.append(int(there.sum()))
        if reached[-1] > 1:
            at_beta = np.array([one["utility"][some, seed, -1] for one in several])
            both = (at_beta[there], np.array(at_kl)[there])
            spreads.append([np.subtract(*np.quantile(values, [0.75, 0.25])) for values in both])
    at_beta, at_kl = np.reshape(spreads, (-1, 2)).T
    return Claim(
        f"β is not one currency: at β = 0.5 losses differ in utility more than at one KL, {ALIKE} nats"
        " (quartiles apart)",
        f"{over_seeds(at_beta - at_kl, 2)} more: {over_seeds(at_beta, 2)} against {over_seeds(at_kl, 2)}; of"
        f" {len(several)} losses {min(reached)} or more reach it",
        verdict(at_beta - at_kl),
    )


def caught(found: Found, best: Mapping[str, np.ndarray], place: int) -> list[Claim]:
    """What the shape of DiscoPOP, with its local minimum at z = -0.12, means for a run that starts at π₀."""
    if "discopop" not in found:
        return []
    lost = best["utility"][:, -1] - found["discopop"]["utility"][place, :, -1]
    says = "DiscoPOP has a local minimum on the wrong side of 0: from π₀ it is caught there, far away at β = 0.05"
    return [Claim(says, f"utility {over_seeds(lost, 2)} below that of π₀", verdict(lost))]


def over_beta(one: Mapping[str, np.ndarray], curve: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """KL and utility along β, means over seeds at the end."""
    return one["kl"][curve, :, -1].mean(axis=1), one["utility"][curve, :, -1].mean(axis=1)


def tables_of(
    found: Found, best: Mapping[str, np.ndarray], settings: Settings, same: Mapping[str, str]
) -> dict[str, str]:
    best = {name: values.mean(axis=0) for name, values in best.items()}
    some, many, noisy = (
        place_of(settings, beta=0.5, pairs=2000),
        place_of(settings, pairs=20_000, flips=0.0),
        place_of(settings, flips=0.2),
    )
    heads = ["KL", "utility", "TV to π₀ exp(u/β)", "TV to the nearest π₀ exp(u/τ)", "Δ log π(chosen)"]

    def cells(one, place):
        return [
            f"{one[m][place, :, -1].mean():.2f} ± {one[m][place, :, -1].std(ddof=1):.2f}" for m in METRICS
        ]

    def table(place):
        rows = [[name, *cells(one, place)] for name, one in found.items()]
        return markdown_table(["loss", *heads], rows)

    curve = axis_of(settings, "beta", pairs=2000, flips=0.0)
    equal = f"Utility at equal KL, on chords between {len(curve)} β's (2,000 pairs; nan: not reached)"
    levels = (0.1, ALIKE, 1.0)

    def read(points):
        return [[utility_at(*over_beta(one, points), at) for at in levels] for one in found.values()]

    # How much chords may hide: the same with fewer of them.
    readings, coarser = read(curve), read(curve[::2])
    change = np.nanmax(np.abs(np.subtract(readings, coarser)), initial=0.0)
    optimal = [utility_at(best["kl"], best["utility"], at) for at in levels]
    rows = [
        [name, *(f"{x:.2f}" for x in values)]
        for name, values in zip([*found, "π₀ exp(u/τ)"], [*readings, optimal], strict=True)
    ]
    reading = markdown_table(["loss", "0.1 nats", f"{ALIKE} nats", "1 nat"], rows)
    return {
        f"β = 0.5, 2,000 pairs (optimum: KL {best['kl'][0]:.2f}, utility {best['utility'][0]:.2f})": table(
            some
        ),
        "β = 0.5, 20,000 pairs": table(many),
        "β = 0.5, 20,000 pairs, 20 % of labels flipped": table(noisy),
        equal: f"{reading}\n\nWith every second β left out these numbers change by up to {change:.2f}.",
        "The same losses here": "Every answer is one token: "
        + ", ".join(f"{name} is {other}" for name, other in same.items())
        + ". Means and standard deviations are over seeds. sppo and dno are given win rates, odpo gaps of utility.",
    }


def draw_figures(
    folder: Path, found: Found, best: Mapping[str, np.ndarray], settings: Settings, marks: Sequence[int]
) -> None:
    """What KL buys, how fast the optimum is neared, and what wrong labels do."""
    best = {name: values.mean(axis=0) for name, values in best.items()}
    curve = axis_of(settings, "beta", pairs=2000, flips=0.0)
    many = place_of(settings, pairs=20_000, flips=0.0)
    noise = axis_of(settings, "flips", pairs=20_000)

    def of_beta(axis, one, **style):
        axis.plot(*over_beta(one, curve), "o-", **style)

    def of_steps(axis, one, **style):
        axis.plot(marks, one["tv"][many].mean(axis=0), "-", **style)

    def of_noise(axis, one, **style):
        axis.plot([settings[i].flips for i in noise], one["tv"][noise, :, -1].mean(axis=1), "o-", **style)

    order = np.argsort(best["kl"])

    def frontier(axis):
        axis.plot(best["kl"][order], best["utility"][order], "k--", lw=0.9, label="π₀ exp(u/τ)")
        axis.set_xlim(5e-3, 8)
        axis.set_xscale("log")

    panels(
        folder / "kl_utility.png", found, of_beta, frontier,
        "what KL buys: β from 5 to 0.05, 2,000 pairs", "KL to the reference, nats", "utility",
    )  # fmt: skip
    panels(
        folder / "steps.png", found, of_steps, lambda axis: axis.set(ylim=(0, 1), xscale="log"),
        "how fast: β = 0.5, 20,000 pairs", "step", "TV to π₀ exp(u/β)",
    )  # fmt: skip
    panels(
        folder / "noise.png", found, of_noise, lambda axis: axis.set(ylim=(0, 1)),
        "wrong labels: β = 0.5, 20,000 pairs", "share of labels flipped", "TV to π₀ exp(u/β)",
    )  # fmt: skip


def panels(path: Path, found: Found, draw, dress, title: str, across: str, up: str) -> None:
    """A panel for each family that has a loss in it."""
    drawn = {family: [n for n in names if n in found] for family, names in FAMILIES.items()}
    drawn = {family: names for family, names in drawn.items() if names}
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(4.6 * columns, 2.5 * rows + 0.2),
            squeeze=False,
            sharey=True,
            layout="constrained",
        )
        for axis, (family, names) in zip(axes.flat, drawn.items(), strict=False):
            for name, colour in zip(names, COLOURS, strict=False):
                draw(axis, found[name], color=colour, lw=1.1, ms=3, label=name)
            dress(axis)
            axis.set_title(family)
            axis.set_xlabel(across)
            axis.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        for axis in axes.flat[len(drawn) :]:
            axis.axis("off")
        for row in axes:
            row[0].set_ylabel(up)
        figure.suptitle(title, x=0.01, ha="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)
