"""Do rationales make preference data go further, as Just et al. say (arXiv:2407.14477)? A world where one can look.

A prompt x is 16 numbers; the hidden rule k(x) = argmaxⱼ (Mx)ⱼ names one of 8 attributes. An answer is 8 bits for the
attributes and a ninth for being long. The chosen answer has attribute k, the rejected one has not, all other attributes
are coins; the chosen one is long with probability 0.8 and the rejected one with 0.2, although length is worth nothing.
The rationale is the token k. Answers and rationale share the trunk tanh(Wx) and the attributes' head, so that whatever
one learns the other can use: the mechanism of the paper is given here, and it is measured what it brings.

A minute at full size, a few seconds with --quick.
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

from experiments.claims import Claim, conclude, over_seeds, verdict
from experiments.figures import STYLE
from prefjax.losses import rationale_dpo_loss
from prefjax.rewards import ranking_accuracy
from prefjax.train import markdown_table

FEATURES, ATTRIBUTES, HELD_OUT, TRACE = 16, 8, 2048, 5
# γ, and whether rationales are of other pairs.
VARIANTS = {
    "DPO": (0.0, False),
    "rationale, γ = 0.1": (0.1, False),
    "rationale, γ = 1": (1.0, False),
    "shuffled, γ = 1": (1.0, True),
}


@dataclass(frozen=True)
class Config:
    workdir: Path = Path("runs/rationales")
    seeds: int = 8
    steps: int = 600
    beta: float = 1.0  # reward per nat away from the reference, which gives every answer the same probability
    learning_rate: float = 0.01
    hidden: int = 32
    quick: bool = False
    """Two sizes of data and three seeds."""


class Pairs(NamedTuple):
    """Prompts, answers as bits (attributes, then length), and the attribute that decides."""

    x: jax.Array
    chosen: jax.Array
    rejected: jax.Array
    rationale: jax.Array


def draw_pairs(key, rule, n: int, chosen_long: float) -> Pairs:
    x_key, chosen_key, rejected_key, length_key = jax.random.split(key, 4)
    x = jax.random.normal(x_key, (n, FEATURES))
    k = jnp.argmax(x @ rule, axis=-1)
    decides = jax.nn.one_hot(k, ATTRIBUTES)
    bits = [jax.random.bernoulli(key, 0.5, (n, ATTRIBUTES)) for key in (chosen_key, rejected_key)]
    chances = jnp.broadcast_to(jnp.array([chosen_long, 1 - chosen_long]), (n, 2))
    long = jax.random.bernoulli(length_key, chances).astype(jnp.float32)
    chosen = jnp.where(decides == 1, 1.0, bits[0])
    rejected = jnp.where(decides == 1, 0.0, bits[1])
    long_chosen, long_rejected = long[:, :1], long[:, 1:]
    return Pairs(
        x,
        jnp.concatenate([chosen, long_chosen], axis=-1),
        jnp.concatenate([rejected, long_rejected], axis=-1),
        k,
    )


def init(key, hidden: int) -> dict[str, jax.Array]:
    trunk, head = jax.random.split(key)
    return {
        "trunk": jax.random.normal(trunk, (FEATURES, hidden)) / jnp.sqrt(FEATURES),
        "head": 0.1 * jax.random.normal(head, (hidden, ATTRIBUTES)) / jnp.sqrt(hidden),
        "length": jnp.zeros(()),
    }


def bit_logits(params, x):
    """The logit of each bit of the answer to x; bits are independent given x."""
    attributes = jnp.tanh(x @ params["trunk"]) @ params["head"]
    return jnp.concatenate([attributes, jnp.broadcast_to(params["length"], (*x.shape[:-1], 1))], axis=-1)


def logp(params, x, answer):
    """log π(answer|x) among all 2⁹ answers."""
    logits = bit_logits(params, x)
    return jnp.sum(jax.nn.log_sigmoid(jnp.where(answer == 1, logits, -logits)), axis=-1)


def rationale_logp(params, x, rationale):
    logits = bit_logits(params, x)[..., :ATTRIBUTES]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), rationale[..., None], axis=-1)[..., 0]


def train(config: Config, n: int, key, gamma, shuffled):
    """One run; returns the accuracy on held-out pairs every `TRACE` steps, and in the end the favour for length: the
    accuracy where the chosen answer is the longer one less that where it is the shorter one."""
    rule_key, data_key, test_key, init_key, shuffle_key = jax.random.split(key, 5)
    rule = jax.random.normal(rule_key, (FEATURES, ATTRIBUTES))
    pairs = draw_pairs(data_key, rule, n, chosen_long=0.8)
    held_out = draw_pairs(test_key, rule, HELD_OUT, chosen_long=0.5)
    other = jax.random.permutation(shuffle_key, pairs.rationale)
    rationale = jnp.where(shuffled, other, pairs.rationale)
    uniform = -(ATTRIBUTES + 1) * jnp.log(2.0)
    optimizer, params = optax.adam(config.learning_rate), init(init_key, config.hidden)

    def loss(params):
        return rationale_dpo_loss(
            logp(params, pairs.x, pairs.chosen) - uniform,
            logp(params, pairs.x, pairs.rejected) - uniform,
            rationale_logp(params, pairs.x, rationale),
            beta=config.beta,
            gamma=gamma,
        ).mean()

    longer = held_out.chosen[:, -1] - held_out.rejected[:, -1]

    def right(params):
        chosen, rejected = (logp(params, held_out.x, y) for y in (held_out.chosen, held_out.rejected))
        return ranking_accuracy(chosen, rejected)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    def some(carry, _):
        carry, _ = jax.lax.scan(step, carry, length=TRACE)
        return carry, right(carry[0]).mean()

    (params, _), trace = jax.lax.scan(some, (params, optimizer.init(params)), length=config.steps // TRACE)
    favour = [right(params).mean(where=longer == side) for side in (1, -1)]
    return trace, favour[0] - favour[1]


def main(config: Config) -> dict:
    sizes, seeds = ((64, 256), 3) if config.quick else ((64, 128, 256, 512, 1024), config.seeds)
    keys = jax.random.split(jax.random.key(0), seeds)
    gammas, shuffled = (jnp.array(values) for values in zip(*VARIANTS.values(), strict=True))
    traces, favours = {}, {}
    for n in sizes:
        over_keys = jax.vmap(partial(train, config, n), in_axes=(0, None, None))
        both = jax.jit(jax.vmap(over_keys, in_axes=(None, 0, 0)))(keys, gammas, shuffled)
        traces[n], favours[n] = map(np.asarray, both)  # [variants, seeds, steps / TRACE], [variants, seeds]
        last = zip(VARIANTS, traces[n][:, :, -1].mean(axis=1), strict=True)
        print(f"{n} pairs: " + ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in last))
    return report(config, traces, favours)


def report(config: Config, traces: dict, favours: dict) -> dict:
    sizes, names = list(traces), list(VARIANTS)
    last = {name: {n: traces[n][i, :, -1] for n in sizes} for i, name in enumerate(names)}
    small, large = sizes[0], sizes[-1]
    few = sizes[len(sizes) // 2]
    dpo, with_rationale, shuffled = last["DPO"], last["rationale, γ = 1"], last["shuffled, γ = 1"]
    gain = {n: with_rationale[n] - dpo[n] for n in sizes}

    def steps_until(name, n, level):
        reached = traces[n][names.index(name)] >= level[:, None]
        return np.where(reached.any(axis=1), TRACE * (1 + reached.argmax(axis=1)), config.steps).astype(float)

    slow, fast = (steps_until(name, few, dpo[few] - 0.005) for name in ("DPO", "rationale, γ = 1"))
    long = {name: favours[few][i] for i, name in enumerate(names)}
    saved = with_rationale[small] - dpo[few]
    shrinks = gain[small] - gain[large]
    wrong = shuffled[small] - dpo[small]
    shorter = long["rationale, γ = 1"] - long["DPO"]
    claims = [
        Claim(
            f"fewer pairs: {small} with rationales do as well as {few} without, less 0.01",
            f"accuracy {over_seeds(saved)} above",
            verdict(saved, above=-0.01),
        ),
        Claim(
            "the gain is largest where pairs are few",
            f"gain at {small} less gain at {large}: {over_seeds(shrinks)}",
            verdict(shrinks),
        ),
        Claim(
            "it is what rationales say: those of other pairs do not help",
            f"shuffled less DPO at {small}: {over_seeds(wrong)}",
            verdict(-wrong),
        ),
        Claim(
            f"faster: fewer steps to DPO's final accuracy, {few} pairs",
            f"{over_seeds(slow - fast, 0)} fewer: {fast.mean():.0f} steps against {slow.mean():.0f}",
            verdict(slow - fast),
        ),
        Claim(
            f"less bias to long answers, {few} pairs",
            f"favour {over_seeds(-shorter)} less: {over_seeds(long['rationale, γ = 1'])} against"
            f" {over_seeds(long['DPO'])}",
            verdict(-shorter),
        ),
    ]
    table = markdown_table(
        ["pairs", *names], [[n, *(over_seeds(last[name][n]) for name in names)] for n in sizes]
    )
    figure = config.workdir / "figures" / "rationales.png"
    draw(figure, traces, favours, few)
    data = {
        "accuracy": {name: {str(n): last[name][n].tolist() for n in sizes} for name in names},
        "favour for the longer answer": {name: values.tolist() for name, values in long.items()},
    }
    favour = (
        "Accuracy where the chosen answer is the longer one, less where it is the shorter one. "
        + ", ".join(f"{name}: {over_seeds(values)}" for name, values in long.items())
    )
    sections = {
        "Accuracy on held-out pairs": table,
        "Favour for the longer answer": favour + ".",
        "Figure": f"![](figures/{figure.name})",
    }
    title = "Rationales beside preferences (Just et al., 2024)"
    setting = f"{'--quick: ' if config.quick else ''}{len(dpo[small])} seeds, {config.steps:,} steps"
    conclude(config.workdir, title, claims, setting=setting, sections=sections, data=data)
    return data


def draw(path: Path, traces: dict, favours: dict, few: int) -> None:
    colours = dict(zip(VARIANTS, ("#7f7f7f", "#56b4e9", "#0072b2", "#d55e00"), strict=True))
    with plt.rc_context(STYLE):
        figure, (sizes, speed, length) = plt.subplots(1, 3, figsize=(9.6, 2.8), layout="constrained")
        for i, name in enumerate(VARIANTS):
            ends = np.array([traces[n][i, :, -1] for n in traces])
            error = ends.std(axis=1, ddof=1) / np.sqrt(ends.shape[1])
            sizes.errorbar(
                list(traces), ends.mean(1), 2 * error, fmt="o-", ms=3, lw=1, color=colours[name], label=name
            )
            trace = traces[few][i]
            speed.plot(TRACE * (1 + np.arange(trace.shape[1])), trace.mean(0), lw=1.2, color=colours[name])
            long = np.array([favours[n][i] for n in favours])
            length.plot(list(favours), long.mean(1), "o-", ms=3, lw=1, color=colours[name])
        sizes.set(xscale="log", xlabel="pairs", title="accuracy on held-out pairs, ± 2 s.e.")
        speed.set(xlabel="step", title=f"the same while training, {few} pairs")
        length.set(xscale="log", xlabel="pairs", title="favour for the longer answer")
        for axis in (sizes, length):
            axis.set_xticks(list(traces), map(str, traces))
            axis.minorticks_off()
        sizes.legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Config))
