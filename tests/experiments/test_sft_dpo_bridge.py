"""The experiment on SFT and DPO: its world is what its first lines say, imitation finds what it should, its report."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sft_dpo_bridge import (
    ANSWERS,
    ARMS,
    COLUMNS,
    KNOWN,
    PROMPTS,
    WORLDS,
    Arm,
    Config,
    World,
    draw_pairs,
    draw_world,
    imitate,
    main,
    ranks_right,
)


def test_a_demonstrator_that_knows_little_and_a_base_that_knows_something():
    world = jax.jit(draw_world)(jax.random.key(0), 0.5)
    assert world.reward.shape == (PROMPTS, ANSWERS)
    np.testing.assert_array_equal(np.isfinite(world.demonstrator).sum(axis=1), KNOWN)
    for logits in (world.base, world.demonstrator):
        np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, rtol=1e-5)
    better = [
        float((jnp.exp(logits) * world.reward).sum(axis=1).mean())
        for logits in (world.base, world.demonstrator)
    ]
    assert 0.2 < better[0] < better[1]


def test_labels_follow_bradley_and_terry_and_answers_differ():
    reward = jnp.tile(jnp.array([0.0, 1.0, *[0.0] * (ANSWERS - 2)]), (PROMPTS, 1))
    pool = jnp.tile(jnp.array([0.0, 0.0, *[-40.0] * (ANSWERS - 2)]), (PROMPTS, 1))
    draw = jax.jit(jax.vmap(lambda key: draw_pairs(key, World(reward, pool, pool), pool)))
    prompts, chosen, rejected = draw(jax.random.split(jax.random.key(0), 50))
    assert prompts.min() == 0
    assert prompts.max() == PROMPTS - 1
    np.testing.assert_array_equal(chosen + rejected, 1)  # the two of the pool, once each
    # Five standard errors of 10,000 coins.
    np.testing.assert_allclose(chosen.mean(), 1 / (1 + np.exp(-1)), atol=0.023)


def test_without_limit_sft_finds_the_demonstrator_and_chi_square_stops_on_the_way():
    world = draw_world(jax.random.key(1), 0.5)
    target = jnp.exp(world.demonstrator)
    arms = Arm(jnp.array([0, 1]), jnp.ones(2), jnp.ones(2), jnp.array([False, True]))
    sft, held = jax.jit(jax.vmap(lambda arm: imitate(world, target, arm, 400)))(arms)
    assert np.abs(np.exp(sft) - target).sum(axis=1).mean() < 0.02
    assert np.abs(np.exp(held) - target).sum(axis=1).mean() > 0.1
    known = np.isfinite(world.demonstrator)
    assert float(ranks_right(world, world.reward, tie=0.0)) == 1.0
    assert float(ranks_right(world, jnp.zeros_like(sft))) == 0.5
    assert float(ranks_right(world, sft - world.base, among=known)) > 0.65


def test_a_short_run_reports_every_claim(tmp_path):
    data = main(Config(workdir=tmp_path, seeds=4, imitation_steps=20, dpo_steps=20))
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["claims"]) == 5 + 5 * len(WORLDS)
    assert written["setting"] == "4 seeds, 20 steps of imitation, 20 of DPO"
    report = (tmp_path / "report.md").read_text()
    assert "good base" in report
    # Columns stand in the order of what happens, not of the alphabet.
    heads = next(line for line in report.splitlines() if line.startswith("| imitation"))
    assert [head.strip() for head in heads.strip("|").split("|")] == [
        "imitation", *COLUMNS.values(), "memory of the reference",
    ]  # fmt: skip
    assert len(data["arms"]) == len(ARMS) == len(set(data["arms"]))
    for world in WORLDS:
        assert np.shape(data[world]["value after DPO, own pairs"]) == (4, len(ARMS))
        assert (tmp_path / "figures" / f"{world.replace(' ', '_')}.png").stat().st_size > 10_000
        # The usual rate goes farthest, the smallest hardly anywhere.
        distance = np.mean(data[world]["KL to the base"], axis=0)
        assert distance[0] > 3 * distance[3]
