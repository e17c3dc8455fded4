"""What TRL computes, value and gradient, from goldens that its own code made (tests/goldens/losses/make_trl*.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.losses import (
    aot_loss,
    aot_unpaired_loss,
    apo_down_loss,
    apo_zero_loss,
    bco_loss,
    bco_pair_loss,
    bradley_terry_loss,
    cispo_loss,
    cpo_loss,
    discopop_loss,
    dpo_loss,
    exo_pair_loss,
    gspo_loss,
    gspo_token_loss,
    hinge_loss,
    ipo_loss,
    kl_k3,
    kl_penalty,
    kto_loss,
    nca_pair_loss,
    nll_loss,
    odds_ratio_loss,
    ppo_clip_loss,
    robust_dpo_loss,
    simpo_loss,
    sppo_hard_loss,
    two_class_process_reward_loss,
    value_loss,
    xpo_loss,
)
from prefjax.returns import (
    batch_scaled_advantages,
    dr_grpo_advantages,
    grpo_advantages,
    reward_standard_deviation,
    rloo_advantages,
    whitened,
)
from prefjax.rewards import kl_shaped_rewards
from prefjax.types import Weighted

FOLDER = Path(__file__).parents[1] / "goldens/losses"
PAIRS, GRPO, OLD = (
    json.loads((FOLDER / f"{name}.json").read_text()) for name in ("trl", "trl_grpo", "trl_1_10")
)
COLUMN = dict(zip(PAIRS["columns"], np.array(PAIRS["pairs"], np.float32).T, strict=True))
LENGTHS = COLUMN["chosen_length"], COLUMN["rejected_length"]
RATIOS = COLUMN["chosen_logratio"], COLUMN["rejected_logratio"]
LOGPS = COLUMN["chosen_logp"], COLUMN["rejected_logp"]
AVERAGES = LOGPS[0] / LENGTHS[0], LOGPS[1] / LENGTHS[1]
SIMPO = {"beta": 2.5, "gamma": 0.5}


def averaged(loss, **settings):
    return lambda c, r: loss(c / LENGTHS[0], r / LENGTHS[1], **settings)


def kto(chosen, rejected, **changes):
    """A pair as two examples, of which the mean is taken; the reference point is the mean of the two."""
    kl = {"kl": jax.lax.stop_gradient((chosen + rejected) / 2)} | changes

    def each(ratio, label, kl):
        weights = {"desirable_weight": 1.3, "undesirable_weight": 0.7}
        return kto_loss(ratio, jnp.float32(label), beta=0.1, kl=kl, **weights)

    over_pairs = jax.vmap(each, in_axes=(0, None, 0 if jnp.ndim(kl["kl"]) else None))
    return (over_pairs(chosen, 1, kl["kl"]) + over_pairs(rejected, 0, kl["kl"])) / 2


def sft(chosen, rejected):
    """The mean over the chosen tokens, of which the first one moves."""
    return nll_loss(chosen) / LENGTHS[0] + 0.0 * rejected


# For each name in the golden: what we call, and on which two columns the gradient is.
ON_PAIRS = {
    "sigmoid beta=0.1 label_smoothing=0.0": (lambda c, r: dpo_loss(c, r, beta=0.1), RATIOS),
    # TRL's sigmoid ignores label_smoothing.
    "sigmoid beta=0.1 label_smoothing=0.1": (lambda c, r: dpo_loss(c, r, beta=0.1), RATIOS),
    "sigmoid beta=2.5 label_smoothing=0.0": (lambda c, r: dpo_loss(c, r, beta=2.5), RATIOS),
    "ipo beta=0.1 label_smoothing=0.0": (averaged(ipo_loss, beta=0.1), RATIOS),
    "ipo beta=2.5 label_smoothing=0.0": (averaged(ipo_loss, beta=2.5), RATIOS),
    "hinge beta=0.1 label_smoothing=0.0": (lambda c, r: hinge_loss(c, r, beta=0.1), RATIOS),
    "robust beta=0.1 label_smoothing=0.1": (
        lambda c, r: robust_dpo_loss(c, r, beta=0.1, label_smoothing=0.1),
        RATIOS,
    ),
    "robust beta=2.5 label_smoothing=0.3": (
        lambda c, r: robust_dpo_loss(c, r, beta=2.5, label_smoothing=0.3),
        RATIOS,
    ),
    "exo_pair beta=0.1 label_smoothing=0.001": (
        lambda c, r: exo_pair_loss(c, r, beta=0.1, label_smoothing=0.001),
        RATIOS,
    ),
    "exo_pair beta=2.5 label_smoothing=0.1": (
        lambda c, r: exo_pair_loss(c, r, beta=2.5, label_smoothing=0.1),
        RATIOS,
    ),
    "apo_zero beta=0.1 label_smoothing=0.0": (lambda c, r: apo_zero_loss(c, r, beta=0.1), RATIOS),
    "apo_down beta=0.1 label_smoothing=0.0": (lambda c, r: apo_down_loss(c, r, beta=0.1), RATIOS),
    "nca_pair beta=0.1 label_smoothing=0.0": (lambda c, r: nca_pair_loss(c, r, beta=0.1), RATIOS),
    "bco_pair beta=0.1 label_smoothing=0.0": (lambda c, r: bco_pair_loss(c, r, beta=0.1), RATIOS),
    "sppo_hard beta=0.1 label_smoothing=0.0": (lambda c, r: sppo_hard_loss(c, r, beta=0.1), RATIOS),
    "discopop beta=0.1 label_smoothing=0.0": (lambda c, r: discopop_loss(c, r, beta=0.1), RATIOS),
    "sigmoid_norm beta=2.5 label_smoothing=0.0": (averaged(dpo_loss, beta=2.5), RATIOS),
    "sft beta=0.1 label_smoothing=0.0": (sft, LOGPS),
    "cpo sigmoid beta=0.1 label_smoothing=0.0": (lambda c, r: cpo_loss(c, r, beta=0.1), LOGPS),
    "cpo sigmoid beta=0.1 label_smoothing=0.1": (
        lambda c, r: cpo_loss(c, r, beta=0.1, label_smoothing=0.1),
        LOGPS,
    ),
    "cpo simpo beta=2.5 label_smoothing=0.0": (lambda c, r: simpo_loss(c, r, **SIMPO), AVERAGES),
    "cpo simpo beta=2.5 label_smoothing=0.1": (
        lambda c, r: simpo_loss(c, r, **SIMPO, label_smoothing=0.1),
        AVERAGES,
    ),
    "odds_ratio": (lambda c, r: 0.1 * odds_ratio_loss(c, r), AVERAGES),
    "kto": (kto, RATIOS),
    "apo_zero_unpaired": (lambda c, r: kto(c, r, kl=0.0), RATIOS),
    "reward": (lambda c, r: bradley_terry_loss(c, r, margin=jnp.asarray(COLUMN["margin"])), RATIOS),
}


def test_every_golden_of_pairs_is_compared():
    assert set(PAIRS["losses"]) == {*ON_PAIRS, *AOT}


@pytest.mark.parametrize("name", ON_PAIRS)
def test_agrees_on_200_pairs(name):
    loss, columns = ON_PAIRS[name]
    columns = tuple(jnp.asarray(column) for column in columns)

    @jax.jit
    def both(*columns):
        return loss(*columns), jax.grad(lambda c: loss(*c).sum())(columns)

    values, gradients = both(*columns)
    np.testing.assert_allclose(values, PAIRS["losses"][name], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.stack(gradients, axis=1), PAIRS["gradients"][name], rtol=1e-5, atol=1e-6)


AOT = {
    "aot beta=0.1 label_smoothing=0.0": lambda c, r, c0, r0, mask: aot_loss(c, r, c0, r0, mask, beta=0.1),
    "aot_unpaired beta=0.1 label_smoothing=0.1": lambda c, r, c0, r0, mask: aot_unpaired_loss(
        c - c0, r - r0, mask, beta=0.1, label_smoothing=0.1
    ),
}


@pytest.mark.parametrize("name", AOT)
def test_agrees_on_20_batches_of_ten_sorted_pairs(name):
    chosen, rejected = (jnp.asarray(logp.reshape(20, 10)) for logp in LOGPS)
    references = [jnp.asarray((x - ratio).reshape(20, 10)) for x, ratio in zip(LOGPS, RATIOS, strict=True)]

    def mean(chosen, rejected):
        return AOT[name](chosen, rejected, *references, jnp.ones((20, 10))).mean(axis=-1)

    np.testing.assert_allclose(mean(chosen, rejected), PAIRS["losses"][name], rtol=1e-5, atol=1e-6)
    gradients = jax.grad(lambda c: mean(*c).sum())((chosen, rejected))
    np.testing.assert_allclose(
        np.concatenate(gradients, axis=1), PAIRS["gradients"][name], rtol=1e-5, atol=1e-6
    )


def on_tokens(loss, by=Weighted.sequences, **settings):
    def mean(logps, batch):
        advantages = jnp.broadcast_to(batch["advantages"][:, None], logps.shape)
        arguments = logps, batch["behaviour_logps"], advantages
        if loss is gspo_token_loss:
            arguments += (batch["mask"],)
        return by(loss(*arguments, **settings), batch["mask"]).mean()

    return mean


def gspo(logps, batch):
    each = gspo_loss(logps, batch["behaviour_logps"], batch["advantages"], batch["mask"], **SEQUENCE_CLIP)
    return Weighted.of(each).mean()


def with_kl(logps, batch):
    kl = kl_k3(logps, batch["reference_logps"])
    return PLAIN(logps, batch) + 0.04 * Weighted.sequences(kl, batch["mask"]).mean()


def with_corrected_kl(logps, batch):
    kl = kl_penalty(logps, batch["behaviour_logps"], batch["reference_logps"])
    return PLAIN(logps, batch) + 0.04 * Weighted.sequences(kl, batch["mask"]).mean()


def rloo(logps, batch):
    logp, behaviour_logp = ((x * batch["mask"]).sum(axis=-1) for x in (logps, batch["behaviour_logps"]))
    return ppo_clip_loss(logp, behaviour_logp, batch["advantages"]).mean()


def constant(values, mask):
    return Weighted.constant(values, mask, GRPO["window"])


PLAIN = on_tokens(ppo_clip_loss)
SEQUENCE_CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2}
ON_TOKENS = {
    "grpo": [PLAIN],
    "grpo clip higher": [on_tokens(ppo_clip_loss, epsilon_high=0.28)],
    "grpo delta": [on_tokens(ppo_clip_loss, max_ratio=1.5)],
    "grpo sequence": [gspo, on_tokens(gspo_token_loss, **SEQUENCE_CLIP)],
    "grpo kl": [with_kl],
    "grpo kl corrected": [with_corrected_kl],
    # The token mean over one microbatch, and over a whole step of one microbatch.
    "bnpo": [on_tokens(ppo_clip_loss, Weighted.tokens)],
    "dapo": [on_tokens(ppo_clip_loss, Weighted.tokens, epsilon_high=0.28)],
    "dr_grpo": [on_tokens(ppo_clip_loss, constant)],
    "cispo": [on_tokens(cispo_loss, Weighted.tokens, max_ratio=1.28)],
    "rloo": [rloo],
}


def test_every_golden_of_policy_gradients_is_compared():
    assert set(GRPO["losses"]) == set(ON_TOKENS)


@pytest.mark.parametrize("name", ON_TOKENS)
def test_agrees_on_policy_gradients(name):
    for loss in ON_TOKENS[name]:
        both = jax.jit(jax.value_and_grad(loss))
        for batch, value, gradient in zip(
            GRPO["batches"], GRPO["losses"][name], GRPO["gradients"][name], strict=True
        ):
            arrays = {key: jnp.asarray(column, jnp.float32) for key, column in batch.items()}
            found = both(arrays["logps"], arrays)
            assert float(found[0]) == pytest.approx(value, rel=1e-5, abs=1e-6)
            np.testing.assert_allclose(found[1], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GRPO["advantages"])
def test_agrees_on_advantages_and_rewards_that_could_not_be_computed(name):
    rewards = jnp.asarray(
        [[np.nan if r is None else r for r in group] for group in GRPO["rewards"]], jnp.float32
    )
    found = {
        "group": lambda: grpo_advantages(rewards),
        "none": lambda: dr_grpo_advantages(rewards),
        "batch": lambda: batch_scaled_advantages(rewards, reward_standard_deviation(rewards)),
        "rloo": lambda: rloo_advantages(rewards),
    }[name]()
    np.testing.assert_allclose(found, GRPO["advantages"][name], rtol=1e-5, atol=1e-6)


def test_agrees_with_bco_and_its_running_mean():
    golden = OLD["bco"]
    ratios, labels = (jnp.asarray(golden[name], jnp.float32) for name in ("logratios", "labels"))
    for batch, shift in enumerate(golden["shifts"]):
        assert shift == pytest.approx(float(golden["beta"] * ratios[: batch + 1].mean()), abs=1e-6)
        loss = bco_loss(ratios[batch], labels[batch], beta=golden["beta"], shift=shift)
        np.testing.assert_allclose(loss, golden["losses"][batch], rtol=1e-5, atol=1e-6)


def test_agrees_with_xpo():
    golden = {name: np.asarray(value) for name, value in OLD["xpo"].items()}
    own_reference, other_reference = (golden[f"{name}_reference"].sum(axis=1) for name in ("own", "other"))
    wins = golden["own_wins"]

    def losses(own, other):
        ratios = own - own_reference, other - other_reference
        chosen, rejected = jnp.where(wins, *ratios), jnp.where(wins, *ratios[::-1])
        settings = {"beta": OLD["xpo"]["beta"], "alpha": OLD["xpo"]["alpha"]}
        return xpo_loss(chosen, rejected, other, **settings)

    sums = tuple(jnp.asarray(golden[name].sum(axis=1), jnp.float32) for name in ("own", "other"))
    np.testing.assert_allclose(losses(*sums), golden["dpo_part"] + golden["xpo_part"], rtol=1e-5)
    gradients = jax.grad(lambda s: losses(*s).mean())(sums)
    np.testing.assert_allclose(gradients, golden["gradients"], rtol=1e-5, atol=1e-8)


def test_agrees_with_ppo():
    golden = {name: np.asarray(value, np.float32) for name, value in OLD["ppo"].items()}
    names = ("logps", "old_logps", "advantages", "values", "old_values", "returns", "reference_logps")
    new, old, advantages, values, old_values, returns, reference = (jnp.asarray(golden[n]) for n in names)
    lengths, window = golden["lengths"].astype(int), new.shape[1]
    mask = jnp.asarray(np.arange(window) < lengths[:, None])
    # TRL's mask of values has a slot more than that of tokens: the state behind the end.
    states = jnp.asarray(np.arange(window) <= lengths[:, None])

    policy = Weighted.tokens(ppo_clip_loss(new, old, advantages), mask).mean()
    assert float(policy) == pytest.approx(float(golden["policy_loss"]), rel=1e-5)
    value = Weighted.tokens(
        value_loss(values, old_values, returns, epsilon=OLD["ppo"]["clip"]), states
    ).mean()
    assert float(value) == pytest.approx(float(golden["value_loss"]), rel=1e-5)
    np.testing.assert_allclose(whitened(advantages, mask), golden["whitened"], rtol=1e-5, atol=1e-6)

    # Rewards: TRL places the score one slot later where there is room, and leaves padding as it is.
    shaped = kl_shaped_rewards(
        jnp.asarray(golden["scores"]), new, reference, mask, beta=jnp.float32(golden["kl_coef"])
    )
    theirs = np.array(golden["rewards"])
    for i, (score, length) in enumerate(zip(golden["scores"], lengths, strict=True)):
        theirs[i, length] -= score
        theirs[i, length - 1] += score
    np.testing.assert_allclose(shaped, np.where(mask, theirs, 0.0), rtol=1e-5, atol=1e-6)


def test_agrees_with_the_token_classifier_of_a_process_reward_model():
    golden = OLD["process"]
    labels = np.array(golden["labels"])
    mask = labels >= 0

    def mean(logits):
        loss = two_class_process_reward_loss(logits, jnp.asarray(np.where(mask, labels, 0)))
        return Weighted.tokens(loss, jnp.asarray(mask)).mean()

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(golden["logits"], jnp.float32))
    assert float(value) == pytest.approx(golden["loss"], rel=1e-6)
    np.testing.assert_allclose(gradient, golden["gradient"], rtol=1e-5, atol=1e-7)
