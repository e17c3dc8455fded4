"""The experiment on ranking accuracy: its world is as its first lines say, theorems hold, all claims are reported."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ranking_accuracy import (
    ANSWERS,
    Config,
    draw_world,
    log_policy,
    losses_of,
    main,
    win_rate,
)
from prefjax.losses import dpo_loss

WORLD = draw_world(jax.random.key(0), 4000, 4, jnp.array([1.0, 0.0, 0.0, 0.0]), noisy=True)


def test_the_labels_are_drawn_and_say_how_often_they_are_right():
    # The chosen answer is preferred with probability α, drawn with it: E[α] = E[α² + (1 - α)²] of the majority's α.
    majority = np.maximum(WORLD.alpha, 1 - WORLD.alpha)
    assert float(WORLD.alpha.mean()) == pytest.approx(np.mean(majority**2 + (1 - majority) ** 2), abs=0.03)
    np.testing.assert_allclose(
        WORLD.alpha, jax.nn.sigmoid(WORLD.reward[:, 0] - WORLD.reward[:, 1]), rtol=1e-5, atol=1e-6
    )
    assert float((WORLD.reward[:, 0] - WORLD.reward[:, 2]).std()) == pytest.approx(2.4, rel=0.05)
    clean = draw_world(jax.random.key(0), 400, 4, jnp.array([1.0, 0, 0, 0]), noisy=False)
    assert np.all(clean.alpha >= 0.5)
    np.testing.assert_allclose(jnp.exp(clean.reference).sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_loss_is_dpo_of_the_policy(gamma):
    theta = jnp.array([0.5, -1.0, 0.2, 0.0])
    ratios = log_policy(WORLD, theta)[:, :2] - gamma * WORLD.reference[:, :2]
    expected = dpo_loss(ratios[:, 0], ratios[:, 1], beta=0.3)
    np.testing.assert_allclose(losses_of(WORLD, theta, 0.3, gamma), expected, rtol=1e-4, atol=1e-5)


def test_the_reference_wins_half_and_what_follows_the_reward_more():
    assert float(win_rate(WORLD, jnp.zeros(4))) == pytest.approx(0.5, abs=1e-5)
    assert float(win_rate(WORLD, jnp.array([5.0, 0, 0, 0]))) > 0.7
    assert WORLD.features.shape == (4000, ANSWERS, 4)


def test_a_short_run_reports_every_claim(tmp_path):
    numbers = main(Config(workdir=tmp_path, quick=True, prompts=120, steps=80))
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["claims"]) == 10
    assert written["setting"] == "--quick: 3 seeds, 80 steps"
    assert [claim["held"] for claim in written["claims"]][:3] == [True] * 3
    assert (tmp_path / "figures" / "ranking_accuracy.png").stat().st_size > 10_000
    assert "alignment gap" in (tmp_path / "report.md").read_text()
    # The rewards are ahead of the policy from the first look on.
    assert np.all(numbers["clean/early reward accuracy"] > numbers["clean/early ranking accuracy"])
    right, reference = numbers["solved/right"], numbers["solved/reference"]
    assert np.all((right[:, 0] > 0.95) & (right[:, -1] < 0.7) & (right[:, -1] > reference - 0.02))
    # Farther references keep more pairs wrong.
    turned = [numbers[f"noisy/flipped at spread {spread}"].mean() for spread in (3, 10, 30, 100)]
    assert np.all(np.diff(turned) < 0)
