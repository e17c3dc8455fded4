"""TRL's other policy gradients, their masks and weights, by its own code: goldens/losses/make_trl_grpo_types.py."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import (
    adapted_entropy_coef,
    cispo_loss,
    entropy_bonus,
    entropy_threshold,
    gmpo_loss,
    gspo_token_loss,
    high_entropy_mask,
    kl_k3,
    luspo_loss,
    masked_importance_weights,
    off_policy_sequence_mask,
    ppo_clip_loss,
    sapo_loss,
    truncated_importance_weights,
    vespo_loss,
)
from prefjax.returns import gdpo_advantages, gdpo_scores, reward_standard_deviation
from prefjax.types import Weighted

FOLDER = Path(__file__).parents[1] / "goldens/losses"
GOLDEN, OLD = (json.loads((FOLDER / f"trl_grpo_types{name}.json").read_text()) for name in ("", "_1_10"))


def arrays_of(batch):
    arrays = {key: jnp.asarray(column, jnp.float32) for key, column in batch.items()}
    arrays["sampler_logps"] = jnp.where(arrays["sampler_logps"] < -1e29, jnp.nan, arrays["sampler_logps"])
    return arrays


def spread(batch):
    return jnp.broadcast_to(batch["advantages"][:, None], batch["mask"].shape)


def tokens(loss, **settings):
    return lambda new, batch: loss(new, batch["behaviour_logps"], spread(batch), **settings)


def sequences(loss, **settings):
    return lambda new, batch: loss(
        new, batch["behaviour_logps"], batch["advantages"], batch["mask"], **settings
    )


def constant(values, mask):
    return Weighted.constant(values, mask, GOLDEN["window"])


def summed(values, mask):
    """TRL's luspo on tokens: the sum of a sequence, averaged over sequences."""
    return Weighted.of(jnp.sum(values * mask, axis=-1))


def averaged(loss, by, factor=None, beta=0.0):
    """A factor multiplies the losses of tokens; the KL term is added after, and goes through the same average."""

    def mean(new, batch):
        values = loss(new, batch)
        if factor is not None:
            values = values * factor(new, batch)
        if beta:
            values = values + beta * kl_k3(new, batch["reference_logps"])
        return by(values, batch["mask"]).mean()

    return mean


def of_sequences(loss, beta=0.0):
    def mean(new, batch):
        kl = Weighted.sequences(kl_k3(new, batch["reference_logps"]), batch["mask"]).mean()
        return Weighted.of(loss(new, batch)).mean() + beta * kl

    return mean


def of_tokens(weights, **settings):
    return lambda new, batch: weights(batch["behaviour_logps"], batch["sampler_logps"], **settings)


def of_whole(weights, **settings):
    def factor(new, batch):
        missing = jnp.isnan(batch["sampler_logps"])
        sampler = jnp.where(missing, batch["behaviour_logps"], batch["sampler_logps"])
        sums = ((x * batch["mask"]).sum(axis=-1) for x in (batch["behaviour_logps"], sampler))
        return jnp.broadcast_to(weights(*sums, **settings)[:, None], new.shape)

    return factor


def near(sampler):
    def factor(new, batch):
        kept = off_policy_sequence_mask(
            new, batch[sampler], batch["advantages"], batch["mask"], threshold=0.05
        )
        return jnp.broadcast_to(kept[:, None], new.shape)

    return factor


def undecided(fraction):
    def factor(new, batch):
        threshold = entropy_threshold(batch["entropies"], batch["mask"], fraction=fraction)
        return high_entropy_mask(batch["entropies"], batch["mask"], threshold)

    return factor


def vespo_from_sampler(new, batch):
    """TRL multiplies the ratio by truncated weights: the sampler's log-probabilities, moved to the bound."""
    weights = truncated_importance_weights(batch["behaviour_logps"], batch["sampler_logps"])
    behaviour = batch["behaviour_logps"] - jnp.log(weights)
    return vespo_loss(new, behaviour, batch["advantages"], batch["mask"])


def gmpo_of_undecided(new, batch):
    mask = undecided(0.4)(new, batch)
    return gmpo_loss(new, batch["behaviour_logps"], batch["advantages"], mask)


PPO, TIS, MIS = tokens(ppo_clip_loss), truncated_importance_weights, masked_importance_weights
LOSSES = {
    "sapo": averaged(tokens(sapo_loss), Weighted.sequences),
    "sapo temperatures": averaged(
        tokens(sapo_loss, temperature_positive=0.5, temperature_negative=2.0), Weighted.sequences
    ),
    "sapo kl": averaged(tokens(sapo_loss), Weighted.sequences, beta=0.04),
    "luspo": averaged(PPO, summed),
    "luspo sequence": of_sequences(sequences(luspo_loss, epsilon_low=0.2, epsilon_high=0.2)),
    "vespo": averaged(sequences(vespo_loss), Weighted.tokens),
    "vespo parameters": averaged(
        sequences(vespo_loss, k_positive=1.0, lambda_positive=2.0, k_negative=2.0, lambda_negative=0.5),
        Weighted.tokens,
    ),
    "vespo token_truncate": averaged(vespo_from_sampler, Weighted.tokens),
    "grpo off-policy mask": averaged(PPO, Weighted.sequences, near("behaviour_logps")),
    "grpo off-policy mask of sampler": averaged(
        PPO, Weighted.sequences, lambda new, b: near("sampler_logps")(new, b) * of_tokens(TIS)(new, b)
    ),
    "grpo entropy mask": averaged(PPO, Weighted.sequences, undecided(0.2)),
    "dapo entropy mask kl": averaged(PPO, Weighted.tokens, undecided(0.4), 0.04),
    "dapo token_truncate": averaged(PPO, Weighted.tokens, of_tokens(TIS), 0.04),
    "dapo token_truncate both": averaged(
        PPO, Weighted.tokens, of_tokens(TIS, min_weight=0.8, max_weight=1.2)
    ),
    "dapo token_mask": averaged(PPO, Weighted.tokens, of_tokens(MIS, min_weight=0.7, max_weight=1.5)),
    "grpo sequence_truncate": averaged(PPO, Weighted.sequences, of_whole(TIS, max_weight=1.5)),
    "grpo sequence_mask": averaged(PPO, Weighted.sequences, of_whole(MIS)),
    "dr_grpo sequence_mask": averaged(PPO, constant, of_whole(MIS, min_weight=0.5, max_weight=2.0)),
    "cispo sequence_mask": averaged(tokens(cispo_loss, max_ratio=1.28), Weighted.tokens, of_whole(MIS)),
    "gmpo": of_sequences(sequences(gmpo_loss)),
    "gmpo narrow": of_sequences(sequences(gmpo_loss, epsilon_low=0.2, epsilon_high=0.25)),
    "gmpo kl": of_sequences(sequences(gmpo_loss), 0.04),
    "gmpo entropy mask": of_sequences(gmpo_of_undecided),
}


def test_every_golden_is_compared():
    assert {*LOSSES, "bnpo entropy bonus"} == set(GOLDEN["losses"])


@pytest.mark.parametrize("name", LOSSES)
def test_agrees(name):
    both = jax.jit(jax.value_and_grad(LOSSES[name]))
    moved = 0.0
    for batch, value, gradient in zip(
        GOLDEN["batches"], GOLDEN["losses"][name], GOLDEN["gradients"][name], strict=True
    ):
        arrays = arrays_of(batch)
        found = both(arrays["logps"], arrays)
        assert float(found[0]) == pytest.approx(value, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-5, atol=1e-6)
        moved += np.abs(gradient).sum()
    assert moved > 0


def test_agrees_on_the_bonus_of_entropy():
    name = "bnpo entropy bonus"

    def loss(entropies, batch):
        bonus = Weighted.tokens(entropy_bonus(entropies, coef=0.1), batch["mask"]).mean()
        return Weighted.tokens(PPO(batch["logps"], batch), batch["mask"]).mean() + bonus

    for batch, value, gradient in zip(
        GOLDEN["batches"], GOLDEN["losses"][name], GOLDEN["gradients"][name], strict=True
    ):
        arrays = arrays_of(batch)
        found = jax.value_and_grad(loss)(arrays["entropies"], arrays)
        assert float(found[0]) == pytest.approx(value, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-5, atol=1e-7)


def test_agrees_on_the_coefficient_of_entropy():
    coef = 0.01
    for entropy, after in zip(GOLDEN["entropy"]["schedule"], GOLDEN["entropy"]["coefficients"], strict=True):
        coef = adapted_entropy_coef(coef, entropy)
        assert float(coef) == pytest.approx(after, abs=1e-7)


def test_agrees_on_several_rewards():
    rewards = np.array(
        [[np.nan if r is None else r for r in row] for row in GOLDEN["gdpo"]["rewards"]], np.float32
    )
    scores = gdpo_scores(jnp.asarray(rewards.reshape(2, 4, 2)), jnp.float32([1.0, 0.5]))
    found = gdpo_advantages(scores, reward_standard_deviation(scores))
    np.testing.assert_allclose(found, GOLDEN["gdpo"]["advantages"], rtol=1e-5, atol=1e-6)


def test_agrees_on_gspo_token():
    settings = {name: OLD[name] for name in ("epsilon_low", "epsilon_high")}
    loss = partial(gspo_token_loss, **settings)

    @jax.jit
    @jax.value_and_grad
    def both(new, batch):
        each = loss(new, batch["behaviour_logps"], spread(batch), batch["mask"])
        return Weighted.sequences(each, batch["mask"]).mean()

    for batch, golden in zip(GOLDEN["batches"], OLD["gspo_token"], strict=True):
        arrays = arrays_of(batch)
        found = both(arrays["logps"], arrays)
        assert float(found[0]) == pytest.approx(golden["loss"], rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(found[1], golden["gradient"], rtol=1e-5, atol=1e-6)
