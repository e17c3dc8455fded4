"""Figures that a paper could print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

COLOURS = {
    "SFT": "#7f7f7f",
    "DPO": "#0072b2",
    "Nash-MD": "#d55e00",
    "best-of-n": "#009e73",
    "optimum": "#000000",
}
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
    "axes.titlelocation": "left", "legend.frameon": False, "figure.dpi": 160, "axes.grid": True, "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
}  # fmt: skip


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Every metric that changed in a run against its steps, the loss first; held-out measurements as dots."""
    steps = [line for line in lines if "loss" in line]
    names = [name for name in steps[0] if name not in ("step", "seconds", "learning_rate", "loss")]
    names = ["loss", *(name for name in names if _changes([line[name] for line in steps if name in line]))]
    columns = 3
    rows = -(-len(names) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.0 * columns, 1.9 * rows), squeeze=False, layout="constrained"
        )
        for axis, name in zip(axes.flat, names, strict=False):
            drawn = [line for line in steps if name in line]
            axis.plot(
                [line["step"] for line in drawn], [line[name] for line in drawn], lw=0.9, color="#0072b2"
            )
            held_out = [line for line in lines if f"eval_{name}" in line]
            if held_out:
                axis.plot(
                    [line["step"] for line in held_out], [line[f"eval_{name}"] for line in held_out], "o-", ms=3,
                    lw=0.8, color="#d55e00", label="held out",
                )  # fmt: skip
                axis.legend()
            axis.set_title(name)
            axis.ticklabel_format(axis="y", useOffset=False)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes.flat[len(names) :]:
            axis.axis("off")
        for axis in axes.flat[max(len(names) - columns, 0) : len(names)]:
            axis.set_xlabel("step")
        figure.suptitle(title, x=0.01, ha="left")
        _save(figure, path)


def _changes(values: Sequence[float]) -> bool:
    """Whether there is something to see, beyond rounding."""
    return max(values) - min(values) > 1e-5 * max(1.0, max(map(abs, values)))


def _whiskers(low, mean, high):
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]


def draw_overview(path: Path, report: Mapping[str, Any]) -> None:
    """Who wins, at what price of KL, and whether the learned judge agrees: the picture of the main job."""
    policies = report["policies"]
    others = [name for name in policies if name != "SFT"]
    with plt.rc_context(STYLE):
        figure, (wins, frontier) = plt.subplots(1, 2, figsize=(7.6, 2.9), layout="constrained")
        for place, name in enumerate(others):
            for shift, judge, marker in ((-0.12, "gold", "o"), (0.12, "learned", "s")):
                rate = policies[name][f"{judge}_preference_over_sft"]
                wins.errorbar(
                    place + shift, rate["mean"], yerr=_whiskers(rate["low"], rate["mean"], rate["high"]), fmt=marker,
                    ms=5, capsize=2.5, color=COLOURS[name], mfc=COLOURS[name] if judge == "gold" else "white",
                )  # fmt: skip
        wins.axhline(0.5, color="k", lw=0.8)
        top = report["optimum"]["gold_preference_over_sft"]
        wins.axhline(top, color="k", lw=0.8, ls="--")
        wins.text(-0.45, top + 0.008, "exact best response to SFT", fontsize=7.5)
        wins.plot([], [], "o", color="k", label="gold judge")
        wins.plot([], [], "s", color="k", mfc="white", label="learned judge")
        wins.legend(loc="lower left", bbox_to_anchor=(0.02, 0.1), fontsize=7.5)
        wins.set_xticks(range(len(others)), others)
        wins.set_xlim(-0.5, len(others) - 0.5)
        lowest = min(
            policies[name][f"{judge}_preference_over_sft"]["low"]
            for name in others
            for judge in ("gold", "learned")
        )
        wins.set_ylim(min(0.45, lowest - 0.03), 1.04)
        wins.set_title("preferred to SFT, held-out prompts (95 %)")

        for name, numbers in policies.items():
            value, kl = numbers["gold_value"], numbers["kl"]
            frontier.errorbar(
                kl["mean"], value["mean"], yerr=_whiskers(value["low"], value["mean"], value["high"]),
                xerr=_whiskers(kl["low"], kl["mean"], kl["high"]), fmt="o", ms=5, capsize=2.5, color=COLOURS[name],
                label=name + (" (bound)" if name == "best-of-n" else ""),
            )  # fmt: skip
        frontier.axhline(report["optimum"]["gold_value"], color="k", lw=0.8, ls="--")
        frontier.text(0, report["optimum"]["gold_value"], " exact optimum", va="bottom", fontsize=7.5)
        frontier.legend(fontsize=7.5, loc="lower right")
        frontier.set_xlabel("KL to SFT, nats a completion")
        frontier.set_title(f"gold value: {report['gold_value_is']}")
        _save(figure, path)


def draw_matrix(
    path: Path, names: Sequence[str], matrix: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """The pairwise win-rate table as a heat map; a cell is P(row ≻ column)."""
    values = np.array([[0.5 if r == c else matrix[r][c]["mean"] for c in names] for r in names])
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axis = plt.subplots(figsize=(3.6, 3.0), layout="constrained")
        image = axis.imshow(values, cmap="RdBu", vmin=0, vmax=1)
        for i, row in enumerate(names):
            for j, column in enumerate(names):
                if i == j:
                    text = "–"
                else:
                    cell = matrix[row][column]
                    text = f"{cell['mean']:.3f}\n±{(cell['high'] - cell['low']) / 2:.3f}"
                axis.text(
                    j,
                    i,
                    text,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="w" if abs(values[i, j] - 0.5) > 0.3 else "k",
                )
        axis.set_xticks(range(len(names)), names, rotation=20)
        axis.set_yticks(range(len(names)), names)
        axis.set_title("gold P(row preferred to column)")
        figure.colorbar(image, ax=axis, shrink=0.8)
        _save(figure, path)
