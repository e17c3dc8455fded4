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

from experiments.claims import Claim, conclude, every, over_seeds, verdict
from experiments.figures import STYLE
from prefjax.losses import dpo_loss, ipo_loss
from prefjax.rewards import (
    dpo_optimal_margin,
    dpo_ranking_threshold,
    idealised_ranking_accuracy,
    rank_correlation,
    ranking_accuracy,
)
from prefjax.train import markdown_table

ANSWERS, LOOK, WRONG_SPREADS = 8, 4, (3, 10, 30, 100)
BETAS, GAMMAS = (0.01, 0.1, 1.0, 5.0, 10.0), (0.0, 0.5, 1.0, 2.0)
DPO = GAMMAS.index(1.0)
REWARD_SPREAD, REFERENCE_SPREAD = 2.4, 3.0  # standard deviations: of r - r', and of a reference logit
WORLDS = {"clean": (12, False, 0.02), "noisy": (256, True, 0.005)}  # features, labels drawn, learning rate


@dataclass(frozen=True)
class Config:
    workdir: Path = Path("runs/ranking_accuracy")
    seeds: int = 10
    prompts: int = 400
    steps: int = 400  # of RMSProp, as in the paper
    beta: float = 0.1
    quick: bool = False
    """Three seeds."""


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
    first, second, third = map(chosen_first, (features, reference, reward))
    return World(first, second, third, jnp.where(drawn, alpha, 1 - alpha))


def log_policy(world: World, theta):
    return jax.nn.log_softmax(world.reference + world.features @ theta, axis=-1)


def losses_of(world: World, theta, beta, gamma):
    """DPO on every pair, with a weight γ on the reference: 1 is DPO, 0 has none. The normalisation drops out."""
    ratios = world.features[:, :2] @ theta + (1 - gamma) * world.reference[:, :2]
    return dpo_loss(ratios[:, 0], ratios[:, 1], beta=beta)


def win_rate(world: World, theta):
    """How often an answer of the policy beats one of the reference, by the true preferences; exact."""
    beats = jax.nn.sigmoid(world.reward[:, :, None] - world.reward[:, None, :])
    return jnp.einsum(
        "pa,pab,pb->p", jnp.exp(log_policy(world, theta)), beats, jnp.exp(world.reference)
    ).mean()


class Trace(NamedTuple):
    """Every `LOOK` steps, the start included. `right` and `gain` are of every pair."""

    loss: jax.Array
    held_out_loss: jax.Array
    right: jax.Array
    gain: jax.Array  # nats that the margin of a pair has gained over the reference
    reward_accuracy: jax.Array
    held_out_right: jax.Array
    win_rate: jax.Array
    agrees: jax.Array  # with theorem 4.1


class Fixed(NamedTuple):
    """What does not change in training."""

    difficulty: jax.Array  # c of every pair
    optimum: jax.Array  # R* of held-out pairs


def train(config: Config, width: int, noisy: bool, rate: float, key, gamma) -> tuple[Fixed, Trace]:
    direction_key, train_key, test_key = jax.random.split(key, 3)
    direction = jax.random.normal(direction_key, (width,))
    direction /= jnp.linalg.norm(direction)
    world, held_out = (draw_world(k, config.prompts, width, direction, noisy) for k in (train_key, test_key))
    optimizer = optax.rmsprop(rate, decay=0.99)
    threshold = dpo_ranking_threshold(
        world.reference[:, 0], world.reference[:, 1], beta=config.beta, reference_weight=gamma
    )

    def look(theta):
        logps, held_out_logps = log_policy(world, theta), log_policy(held_out, theta)
        losses = losses_of(world, theta, config.beta, gamma)
        ratios = logps - world.reference
        right = ranking_accuracy(logps[:, 0], logps[:, 1])
        # Where the margin is rounding, either side may say anything.
        clear = jnp.abs(logps[:, 0] - logps[:, 1]) > 1e-3
        return Trace(
            losses.mean(),
            losses_of(held_out, theta, config.beta, gamma).mean(),
            right,
            ratios[:, 0] - ratios[:, 1],
            ranking_accuracy(ratios[:, 0], ratios[:, 1]).mean(),
            ranking_accuracy(held_out_logps[:, 0], held_out_logps[:, 1]).mean(),
            win_rate(held_out, theta),
            jnp.mean((losses <= threshold) == (right == 1), where=clear),
        )

    def step(carry, _):
        theta, state = carry
        gradient = jax.grad(lambda t: losses_of(world, t, config.beta, gamma).mean())(theta)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(theta, updates), state), None

    def some(carry, _):
        seen = look(carry[0])
        carry, _ = jax.lax.scan(step, carry, length=LOOK)
        return carry, seen

    start = jnp.zeros(width)
    _, trace = jax.lax.scan(some, (start, optimizer.init(start)), length=config.steps // LOOK + 1)
    pairs = held_out.reference[:, 0], held_out.reference[:, 1], held_out.alpha
    optimum = idealised_ranking_accuracy(*pairs, beta=config.beta).mean()
    return Fixed(world.reference[:, 1] - world.reference[:, 0], optimum), trace


def solved(config: Config, key):
    """A table with a free number for each pair, taken to the optimum of the expected loss by Newton's method: DPO at
    every β, and IPO on labels that always agree. Returns how many rank right, and agreement with the closed forms."""
    world = draw_world(key, config.prompts, 12, jax.nn.one_hot(0, 12), noisy=False)
    reference, alpha = world.reference[:, 0] - world.reference[:, 1], jnp.minimum(world.alpha, 0.999)

    def newton(loss):
        slope = jax.grad(lambda x: loss(x).sum())
        curvature = jax.grad(lambda x: slope(x).sum())
        return jax.lax.fori_loop(0, 30, lambda _, x: x - slope(x) / curvature(x), jnp.zeros_like(reference))

    def dpo(beta):
        def expected(gain):
            as_labelled, reversed_ = (dpo_loss(sign * gain, 0 * gain, beta=beta) for sign in (1, -1))
            return alpha * as_labelled + (1 - alpha) * reversed_

        margin = reference + newton(expected)
        pairs = world.reference[:, 0], world.reference[:, 1], world.alpha
        closed = dpo_optimal_margin(*pairs, beta=beta)
        clear = jnp.abs(closed) > 1e-3 / beta
        agrees = (margin > 0) == (idealised_ranking_accuracy(*pairs, beta=beta) == 1)
        return (margin > 0).mean(), jnp.mean(agrees, where=clear)

    tau = 0.1
    margin = reference + newton(lambda gain: ipo_loss(gain, 0 * gain, beta=tau))
    ipo = jnp.mean((margin < 0) == (reference < -1 / (2 * tau)))
    right, agrees = jax.vmap(dpo)(jnp.array(BETAS))
    return right, agrees, ipo, (reference > 0).mean()


def correlation(one, other, where):
    """Pearson's, of two traces; nan where one stands still."""
    one, other = one[where], other[where]
    return np.corrcoef(one, other)[0, 1] if len(one) > 2 and one.std() and other.std() else np.nan


def main(config: Config) -> dict:
    seeds = 3 if config.quick else config.seeds
    keys = jax.random.split(jax.random.key(0), seeds)
    fixed, traces = {}, {}
    for name, (width, noisy, rate) in WORLDS.items():
        gammas = jnp.array(GAMMAS if noisy else (1.0,))
        over_gammas = jax.vmap(partial(train, config, width, noisy, rate), in_axes=(None, 0))
        found = jax.jit(jax.vmap(over_gammas, in_axes=(0, None)))(keys, gammas)
        fixed[name], traces[name] = jax.tree.map(np.asarray, found)
    table = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(solved, config)))(keys))

    numbers = measure(fixed, traces, table)
    draw(config.workdir / "figures" / "ranking_accuracy.png", config, fixed, traces, numbers)
    rows = [[name, *(f"{np.mean(numbers[f'{name}/{key}']):.3f}" for key in SUMMARY)] for name in WORLDS]
    flips = [
        [f"{spread}", over_seeds(numbers[f"noisy/flipped at spread {spread}"], within=(0, 1))]
        for spread in WRONG_SPREADS
    ]
    conclude(
        config.workdir,
        "Ranking accuracy of preference-learned policies",
        claims(numbers),
        setting=f"{'--quick: ' if config.quick else ''}{seeds} seeds, {config.steps:,} steps",
        sections={
            "At the lowest held-out loss": markdown_table(["world", *SUMMARY], rows),
            "Wrong pairs turned round, by how wrong the reference is": TURNED.format(
                markdown_table(["standard deviation of a reference logit, nats", "turned round"], flips)
            ),
            "Figure": "![what training does](figures/ranking_accuracy.png)",
        },
        data={
            "config": {"seeds": seeds, "prompts": config.prompts, "steps": config.steps, "beta": config.beta}
        }
        | {name: np.asarray(values).tolist() for name, values in numbers.items()},
    )
    return numbers


SUMMARY = (
    "step",
    "loss",
    "held-out loss",
    "reward accuracy",
    "ranking accuracy",
    "held-out ranking accuracy",
    "R*",
)


TURNED = """{}

Of the pairs that the reference ranks wrong, in the noisy world, at the lowest held-out loss. The loss of DPO does not
see by how much the reference is wrong, so this is one training, ranked from other references."""


def measure(fixed, traces, table) -> dict[str, np.ndarray]:
    """Every number that the report is made of, one for each seed."""
    numbers: dict[str, np.ndarray] = {}
    for name, trace in traces.items():
        at = DPO if trace.loss.shape[1] > 1 else 0
        plain = jax.tree.map(lambda x, i=at: x[:, i], trace)
        best, seeds = plain.held_out_loss.argmin(axis=1), range(len(plain.loss))
        c = fixed[name].difficulty[:, 0]
        at_best = jax.tree.map(lambda x, b=best: x[np.arange(len(b)), b], plain)
        summary = {
            "step": best * LOOK,
            "loss": at_best.loss,
            "held-out loss": at_best.held_out_loss,
            "reward accuracy": at_best.reward_accuracy,
            "ranking accuracy": at_best.right.mean(axis=-1),
            "held-out ranking accuracy": at_best.held_out_right,
            "agreement with theorem 4.1": trace.agrees.min(axis=(1, 2)),
            "R*": fixed[name].optimum[:, 0],
        }
        for spread in WRONG_SPREADS:
            there = c * spread / REFERENCE_SPREAD
            turned = [(at_best.gain[s] > there[s])[c[s] > 0].mean() for s in seeds]
            summary[f"flipped at spread {spread}"] = np.array(turned)
        early = [int(np.argmax(plain.reward_accuracy[s] >= 0.75)) for s in seeds]
        summary["early reward accuracy"] = np.array([plain.reward_accuracy[s, early[s]] for s in seeds])
        summary["early ranking accuracy"] = np.array([plain.right[s, early[s]].mean() for s in seeds])
        summary["reference ranking accuracy"] = plain.right[:, 0].mean(axis=-1)
        wrong = [np.flatnonzero(c[s] > 0) for s in seeds]
        # As many of each seed, so that all go through one program.
        some = np.stack([places[: min(map(len, wrong))] for places in wrong])
        hard = np.take_along_axis(c, some, axis=1)
        is_right = np.stack([plain.right[s][:, some[s]] == 1 for s in seeds])  # [seeds, steps, pairs]
        when = np.where(is_right.any(axis=1), is_right.argmax(axis=1), is_right.shape[1])
        order = np.asarray(rank_correlation(jnp.asarray(hard), jnp.asarray(when, jnp.float32)))
        low, high = np.quantile(hard, [0.1, 0.9], axis=1, keepdims=True)
        by_then = np.take_along_axis(at_best.right, some, axis=1) == 1
        easiest, hardest = (by_then.mean(axis=1, where=tenth) for tenth in (hard <= low, hard >= high))
        summary |= {"order of flips": order, "easiest tenth": easiest, "hardest tenth": hardest}
        numbers |= {f"{name}/{key}": np.asarray(value) for key, value in summary.items()}
    noisy = traces["noisy"]
    for i, gamma in enumerate(GAMMAS):
        for s_key, column in (("training", noisy.right.mean(axis=-1)), ("held-out", noisy.held_out_right)):
            early, late = [], []
            for s in range(len(column)):
                wins, ranks = noisy.win_rate[s, i], column[s, i]
                best, steps = wins.argmax(), np.arange(len(wins))
                early.append(correlation(wins, ranks, steps <= best))
                late.append(correlation(wins, ranks, steps >= best))
            numbers[f"γ = {gamma}, {s_key} pairs, before the best win rate"] = np.array(early)
            numbers[f"γ = {gamma}, {s_key} pairs, after it"] = np.array(late)
    wins = noisy.win_rate[:, DPO]
    numbers["win rate, best less last"] = wins.max(axis=1) - wins[:, -1]
    right, agrees, ipo, reference = table
    numbers |= {"solved/right": right, "solved/agrees": agrees.min(axis=1), "solved/ipo": ipo}
    return numbers | {"solved/reference": reference}


def claims(numbers) -> list[Claim]:
    def known(values):
        """A trace may stand still, or its best may be its end: then a seed has no correlation."""
        return np.asarray(values, np.float64)[np.isfinite(values)]

    def share(name):
        return over_seeds(numbers[name], within=(0, 1))

    def correlated(values):
        missing = len(values) - len(known(values))
        seeds = f" ({len(known(values))} of {len(values)} seeds)" if missing else ""
        return over_seeds(known(values), within=(-1, 1)) + seeds

    exact = np.concatenate([numbers[f"{name}/agreement with theorem 4.1"] for name in WORLDS])
    right = numbers["solved/right"]
    clean_gap, gap = (100 * (numbers[f"{w}/R*"] - numbers[f"{w}/held-out ranking accuracy"]) for w in WORLDS)
    early = [
        numbers[f"{name}/early reward accuracy"] - numbers[f"{name}/early ranking accuracy"]
        for name in WORLDS
    ]
    tenths = numbers["noisy/easiest tenth"] - numbers["noisy/hardest tenth"]
    flipped = numbers["noisy/flipped at spread 3"]
    after = {g: numbers[f"γ = {g}, training pairs, after it"] for g in GAMMAS}
    before = numbers["γ = 1.0, training pairs, before the best win rate"]
    before_held_out = numbers["γ = 1.0, held-out pairs, before the best win rate"]
    held_out = numbers["γ = 1.0, held-out pairs, after it"]
    order = numbers["noisy/order of flips"]
    together = after[GAMMAS[-1]] - after[GAMMAS[0]]
    late = after[1.0]
    return [
        Claim(
            "a pair is ranked right exactly where its loss is at most -log σ(βc) (theorem 4.1)",
            f"{exact.min():.4f} of pairs, the least of all steps, γ and seeds",
            bool(exact.min() == 1),
        ),
        Claim(
            "the optimum of DPO ranks as R* says, at every β (corollary 3.3); that of IPO as proposition A.7",
            f"{numbers['solved/agrees'].min():.4f} and {numbers['solved/ipo'].min():.4f} of pairs",
            bool(numbers["solved/agrees"].min() == 1 and numbers["solved/ipo"].min() > 0.999),
        ),
        Claim(
            "R* falls with β, to the ranking of the reference (theorem; paper: minimum over β 86-91 %, median 97-99 %)",
            " ".join(f"β={beta:g}: {right[:, i].mean():.3f}" for i, beta in enumerate(BETAS))
            + f"; reference {numbers['solved/reference'].mean():.3f}",
            bool(np.all(np.diff(right, axis=1) <= 0)),
        ),
        Claim(
            "trained policies stay 19-59 points below R*, the alignment gap (here held out, at the lowest loss)",
            f"noisy: {over_seeds(gap, 1)} points; clean: {over_seeds(clean_gap, 1)}",
            verdict(gap, above=19),
        ),
        Claim(
            "early on rewards rank right and the policy does not (accuracies at least 0.1 apart)",
            "; ".join(
                f"{name}: {over_seeds(apart)} apart, {share(f'{name}/early reward accuracy')} against"
                f" {share(f'{name}/early ranking accuracy')}"
                for name, apart in zip(WORLDS, early, strict=True)
            ),
            every(*(verdict(apart, above=0.1) for apart in early)),
        ),
        Claim(
            "fewer than 10 % of the pairs that the reference has wrong are turned round at the lowest held-out loss",
            f"noisy, c of 4 nats: {share('noisy/flipped at spread 3')}; c ten times as large:"
            f" {share('noisy/flipped at spread 30')}",
            verdict(0.1 - flipped),
        ),
        Claim(
            "the larger c, the later a pair is turned round; the hardest last",
            f"rank correlation {correlated(order)}; turned at the lowest held-out loss: {over_seeds(tenths)} more of"
            f" the easiest tenth, {share('noisy/easiest tenth')}, than of the hardest, {share('noisy/hardest tenth')}",
            every(verdict(order), verdict(tenths)),
        ),
        Claim(
            "win rate and ranking accuracy rise together near the reference and then part: training pairs only",
            f"correlation {correlated(before)}, then {correlated(late)}, while the win rate falls by no more than"
            f" {over_seeds(numbers['win rate, best less last'], within=(0, 1))}",
            every(verdict(known(before)), verdict(-known(late))),
        ),
        Claim(
            "… and held-out pairs",
            f"correlation {correlated(before_held_out)}, then {correlated(held_out)}",
            every(verdict(known(before_held_out)), verdict(-known(held_out))),
        ),
        Claim(
            "a larger γ keeps them together",
            f"late correlation at γ = 2 less that at γ = 0: {over_seeds(known(together))}",
            verdict(known(together)),
        ),
    ]


def draw(path: Path, config: Config, fixed, traces, numbers) -> None:
    noisy, steps = traces["noisy"], np.arange(traces["noisy"].loss.shape[-1]) * LOOK
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.0), layout="constrained")
        for values, label, colour in (
            (noisy.reward_accuracy[:, DPO], "rewards, training pairs", "#d55e00"),
            (noisy.right[:, DPO].mean(axis=-1), "policy, training pairs", "#0072b2"),
            (noisy.held_out_right[:, DPO], "policy, held-out pairs", "#009e73"),
        ):
            mean, spread = values.mean(axis=0), values.std(axis=0)
            axes[0].plot(steps, mean, color=colour, label=label)
            axes[0].fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        axes[0].axvline(numbers["noisy/step"].mean(), color="k", lw=0.8, ls="--")
        axes[0].set_title("accuracy (dashed: lowest held-out loss)")
        axes[0].set_xlabel("step")
        axes[0].legend(fontsize=7)

        best = int(numbers["noisy/step"][0]) // LOOK
        c, gain = fixed["noisy"].difficulty[0, 0], noisy.gain[0, DPO, best]
        loss, right = np.log1p(np.exp(-config.beta * gain)), noisy.right[0, DPO, best] == 1
        line = np.linspace(c.min(), c.max(), 100)
        axes[1].plot(line, np.log1p(np.exp(-config.beta * line)), color="k", lw=1, label="-log σ(βc)")
        for side, colour, label in ((right, "#0072b2", "right"), (~right, "#d55e00", "wrong")):
            axes[1].plot(c[side], loss[side], ".", ms=3, color=colour, label=f"ranked {label}")
        axes[1].set_title("loss of each pair, one seed")
        axes[1].set_xlabel("c, nats by which the reference is wrong")
        axes[1].legend(fontsize=7)

        for i, (gamma, colour) in enumerate(
            zip(GAMMAS, ("#009e73", "#56b4e9", "#0072b2", "#d55e00"), strict=True)
        ):
            axes[2].plot(
                noisy.right[:, i].mean(axis=(0, -1)),
                noisy.win_rate[:, i].mean(axis=0),
                color=colour,
                label=f"γ = {gamma:g}",
            )
        axes[2].set_title("win rate against the reference, exact")
        axes[2].set_xlabel("ranking accuracy, training pairs")
        axes[2].legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Config))
