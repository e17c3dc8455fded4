"""The experiment on rationales: its world is what its first lines say, and its report has every claim."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rationales import (
    ATTRIBUTES,
    FEATURES,
    VARIANTS,
    Config,
    draw_pairs,
    init,
    logp,
    main,
    rationale_logp,
)


def test_the_attribute_that_the_rule_names_decides_and_length_is_a_bias_of_the_data():
    rule = jax.random.normal(jax.random.key(1), (FEATURES, ATTRIBUTES))
    pairs = draw_pairs(jax.random.key(0), rule, 4000, chosen_long=0.8)
    np.testing.assert_array_equal(pairs.rationale, np.argmax(np.asarray(pairs.x) @ np.asarray(rule), axis=-1))
    rows = np.arange(4000)
    np.testing.assert_array_equal(pairs.chosen[rows, pairs.rationale], 1)
    np.testing.assert_array_equal(pairs.rejected[rows, pairs.rationale], 0)
    # Five standard errors of a coin thrown 4000 times.
    np.testing.assert_allclose(pairs.chosen[:, -1].mean(), 0.8, atol=0.032)
    np.testing.assert_allclose(pairs.rejected[:, -1].mean(), 0.2, atol=0.032)
    np.testing.assert_allclose(pairs.rejected[:, :-1].mean(), 0.5 * 7 / 8, atol=0.02)


def test_answers_and_rationales_are_distributions():
    params = init(jax.random.key(0), 4)
    x = jax.random.normal(jax.random.key(1), (FEATURES,))
    answers = jnp.array(list(itertools.product([0.0, 1.0], repeat=ATTRIBUTES + 1)))
    over_answers = jnp.exp(logp(params, jnp.broadcast_to(x, (len(answers), FEATURES)), answers))
    np.testing.assert_allclose(over_answers.sum(), 1, rtol=1e-5)
    over_rationales = jnp.exp(
        rationale_logp(params, jnp.broadcast_to(x, (ATTRIBUTES, FEATURES)), jnp.arange(ATTRIBUTES))
    )
    np.testing.assert_allclose(over_rationales.sum(), 1, rtol=1e-5)


def test_a_short_run_reports_every_claim(tmp_path):
    data = main(Config(workdir=tmp_path, quick=True, steps=60))
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["claims"]) == 5
    assert written["setting"] == "--quick: 3 seeds, 60 steps"
    assert set(data["accuracy"]) == set(VARIANTS)
    assert (tmp_path / "figures" / "rationales.png").stat().st_size > 10_000
    # Sixty steps are enough for what the experiment is about.
    mean = {name: np.mean(by_size["64"]) for name, by_size in data["accuracy"].items()}
    assert mean["rationale, γ = 1"] > mean["DPO"] + 0.05 > mean["shuffled, γ = 1"]
