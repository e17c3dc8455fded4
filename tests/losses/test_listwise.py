"""Lists: probabilities of rankings sum to one, two are Bradley-Terry, ragged lists, rax."""

import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefjax.losses import (
    all_pairs_loss,
    best_versus_rest_loss,
    bradley_terry_loss,
    cpl_loss,
    dpo_loss,
    lipo_lambda_loss,
    listnet_loss,
    plackett_luce_loss,
)

RAX = json.loads((Path(__file__).parents[1] / "goldens/losses/rax.json").read_text())
SCORES, LABELS, ONES = jnp.float32([0.3, -0.2, 0.1, 0.5]), jnp.float32([2, 1, 4, 3]), jnp.ones(4)
# Of any list: scores best first, or with labels.
RANKED = {"plackett_luce": plackett_luce_loss, "best_versus_rest": best_versus_rest_loss}
LABELLED = {"listnet": listnet_loss, "all_pairs": all_pairs_loss, "lipo_lambda": lipo_lambda_loss}
EVERY = {
    **{name: lambda s, labels, m, loss=loss: loss(s, m) for name, loss in RANKED.items()},
    **LABELLED,
}

BOTH = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in EVERY.items()}


def test_all_rankings_of_four_have_probabilities_that_sum_to_one():
    with jax.enable_x64(True):
        scores = jnp.array([0.3, -1.0, 2.0, 0.5])
        orders = jnp.array(list(itertools.permutations(range(4))))
        losses = jax.jit(plackett_luce_loss)(scores[orders], jnp.ones((24, 4)))
        assert float(jnp.exp(-losses).sum()) == pytest.approx(1.0, abs=1e-12)
        # By hand, best first: e²/(…) · e^.5/(…) · e^.3/(…)
        by_hand = 1.0
        rest = [2.0, 0.5, 0.3, -1.0]
        while rest:
            by_hand *= math.exp(rest[0]) / sum(map(math.exp, rest))
            rest = rest[1:]
        best_first = [order == (2, 3, 0, 1) for order in itertools.permutations(range(4))].index(True)
        assert float(losses[best_first]) == pytest.approx(-math.log(by_hand), rel=1e-12)
        # The rankings that begin with one of them have together the chance that it is the best.
        first = np.exp(-losses).reshape(4, 6).sum(axis=1)
        chances = np.exp(-jax.jit(best_versus_rest_loss)(scores[orders[::6]], jnp.ones((4, 4))))
        np.testing.assert_allclose(first, chances, rtol=1e-12)


def test_written_numbers():
    three, ones = np.float32([2.0, 1.0, 0.5]), jnp.ones(3)
    for name, scores, value in (
        ("plackett_luce", three, 0.938446),
        ("plackett_luce", three[::-1], 3.277630),
        ("best_versus_rest", three, 0.464369),
        ("all_pairs", three, 0.329584),
    ):
        assert float(BOTH[name](scores, three, ones)[0]) == pytest.approx(value, abs=1e-6)
    # The ranked segments of contrastive preference learning.
    for bias, value in ((1.0, 0.6234852115), (0.5, 0.5952401539)):
        assert float(all_pairs_loss(SCORES, LABELS, ONES, bias=bias)) == pytest.approx(value, abs=1e-7)


def test_written_slopes():
    """Of three with s = (2, 1, .5): what each loses to the others, by hand."""
    scores, ones = jnp.float32([2.0, 1.0, 0.5]), jnp.ones(3)
    chances = np.exp(scores) / np.exp(scores).sum()
    second = np.array([0, *(np.exp(scores[1:]) / np.exp(scores[1:]).sum())])
    picks = np.eye(3)
    best, whole = (BOTH[name](scores, scores, ones)[1] for name in ("best_versus_rest", "plackett_luce"))
    np.testing.assert_allclose(best, chances - picks[0], rtol=1e-5)
    np.testing.assert_allclose(whole, chances - picks[0] + second - picks[1], atol=1e-6)
    targets = jnp.float32([0.0, 3.0, 1.0])
    weights = np.exp(targets) / np.exp(targets).sum()
    np.testing.assert_allclose(BOTH["listnet"](scores, targets, ones)[1], chances - weights, atol=1e-6)
    # LiPO-λ of labels (1, 2, 0) where ranks are 1, 2, 3: pairs (2, 1), (1, 3), (2, 3).
    inverse = 1 / np.log([2.0, 3.0, 4.0])
    pairs = {
        (1, 0): 2 * (inverse[0] - inverse[1]),
        (0, 2): inverse[0] - inverse[2],
        (1, 2): 3 * (inverse[1] - inverse[2]),
    }
    value, slope = 0.0, np.zeros(3)
    for (i, j), weight in pairs.items():
        gap = float(scores[i] - scores[j])
        value += weight * np.log1p(np.exp(-gap))
        slope += weight / (1 + np.exp(gap)) * (picks[j] - picks[i])
    labels = jnp.float32([1.0, 2.0, 0.0])
    found = BOTH["lipo_lambda"](scores, labels, ones)
    assert float(found[0]) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(found[1], slope, rtol=1e-5)


NUMBER = st.floats(-8, 8)


@jax.jit
def relatives_of_two(a, b, beta, high, low):
    two, ones = jnp.stack([a, b]), jnp.ones(2)
    terry = bradley_terry_loss(a, b)
    labels = jnp.stack([high, low])
    swap = jnp.abs(2**high - 2**low) * (1 / np.log(2) - 1 / np.log(3))
    in_order = jnp.where(high > low, bradley_terry_loss(a, b), bradley_terry_loss(b, a))
    return [
        (plackett_luce_loss(two, ones), terry),
        (plackett_luce_loss(beta * two, ones), dpo_loss(a, b, beta=beta)),
        (best_versus_rest_loss(two, ones), terry),
        (all_pairs_loss(two, jnp.array([1.0, 0.0]), ones), terry),
        (all_pairs_loss(two, jnp.array([0.0, 1.0]), ones), bradley_terry_loss(b, a)),
        (all_pairs_loss(two, jnp.zeros(2), ones), (terry + bradley_terry_loss(b, a)) / 2),  # a tie
        (
            all_pairs_loss(two, jnp.array([1.0, 0.0]), ones, bias=beta),
            cpl_loss(a[None], b[None], jnp.ones(1), jnp.ones(1), temperature=1.0, bias=beta),
        ),
        (listnet_loss(two, jnp.array([1.0, 0.0]), ones, temperature=1e-3), terry),
        (lipo_lambda_loss(two, labels, ones), swap * in_order),
    ]


@settings(max_examples=30, deadline=None)
@given(st.tuples(NUMBER, NUMBER, st.floats(0.01, 1), st.floats(0, 3), st.floats(0, 3)))
def test_two_are_bradley_terry(numbers):
    for one, other in relatives_of_two(*map(jnp.float32, numbers)):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


@jax.jit
def relatives_of_four(scores, labels):
    rest = -jax.nn.log_sigmoid(-jax.nn.logsumexp(scores[1:] - scores[0]))
    certain = jnp.array([1.0, 0.0, 0.0, 0.0])
    cross = listnet_loss(scores, labels, ONES)
    weights = jax.nn.softmax(labels)
    divergence = jnp.sum(weights * (jnp.log(weights) - jax.nn.log_softmax(scores)))
    return [
        (best_versus_rest_loss(scores, ONES), rest),
        (listnet_loss(scores, certain, ONES, temperature=1e-3), rest),
        (cross + jnp.sum(weights * jnp.log(weights)), divergence),
        # Only differences of scores count.
        *((loss(scores + 5, labels, ONES), loss(scores, labels, ONES)) for loss in EVERY.values()),
        # And the order of a labelled list does not.
        *((loss(scores[::-1], labels[::-1], ONES), loss(scores, labels, ONES)) for loss in LABELLED.values()),
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(NUMBER, min_size=4, max_size=4, unique_by=lambda x: round(x, 2)), st.permutations(range(4)))
def test_relatives(scores, labels):
    for one, other in relatives_of_four(jnp.float32(scores), jnp.float32(labels)):
        np.testing.assert_allclose(one, other, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("garbage", [0.0, 1e4, -1e4, np.nan, np.inf, -np.inf])
def test_absent_ones_take_no_part_wherever_they_stand(name, garbage):
    scores, labels, mask = (
        np.float32([0.3, 9, -1, 2, 9]),
        np.float32([2, 9, 0, 1, 9]),
        np.float32([1, 0, 1, 1, 0]),
    )
    spoilt = [jnp.asarray(np.where(mask == 1, x, np.float32(garbage))) for x in (scores, labels)]
    both = BOTH[name]
    value, gradient = both(*spoilt, jnp.asarray(mask))
    alone, its = both(jnp.asarray(scores[mask == 1]), jnp.asarray(labels[mask == 1]), jnp.ones(3))
    assert float(value) == pytest.approx(float(alone), rel=1e-6)
    np.testing.assert_allclose(gradient[jnp.array([0, 2, 3])], its, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(gradient[jnp.array([1, 4])], 0.0)


@pytest.mark.parametrize("name", EVERY)
def test_lists_of_one_and_of_none(name):
    for mask in ([0.0, 1.0, 0.0], [0.0, 0.0, 0.0]):
        scores, labels = jnp.float32([1.0, 2.0, 3.0]), jnp.float32([0.0, 1.0, 2.0])
        value, gradient = BOTH[name](scores, labels, jnp.float32(mask))
        assert float(value) == 0.0
        np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


def test_equal_scores():
    zeros, ones, labels = jnp.zeros(5), jnp.ones(5), jnp.arange(5.0)
    values = {"plackett_luce": 120, "best_versus_rest": 5, "listnet": 5, "all_pairs": 2}
    for name, value in values.items():
        assert float(BOTH[name](zeros, labels, ones)[0]) == pytest.approx(math.log(value), rel=1e-6)
    # LiPO-λ: ranks follow the order of the list then, and so does the loss.
    inverse = 1 / np.log([2.0, 3.0, 4.0])
    value = 2 * (inverse[0] - inverse[1]) + 3 * (inverse[0] - inverse[2]) + (inverse[1] - inverse[2])
    in_order, backwards = (
        BOTH["lipo_lambda"](zeros[:3], jnp.float32(x), ones[:3])[0] for x in ([2, 1, 0], [0, 1, 2])
    )
    assert float(in_order) == pytest.approx(value * math.log(2), rel=1e-6)
    assert abs(float(in_order - backwards)) > 0.1


def test_a_tie_of_labels_is_half_a_pair_in_either_order():
    scores = jnp.float32([0.3, -0.2, 0.1])
    pairs = [(0, 2, 1.0), (1, 2, 1.0), (0, 1, 0.5), (1, 0, 0.5)]
    value = sum(w * np.log1p(np.exp(float(scores[j] - scores[i]))) for i, j, w in pairs) / 3
    found, _ = BOTH["all_pairs"](scores, jnp.float32([1, 1, 0]), jnp.ones(3))
    assert float(found) == pytest.approx(value, rel=1e-6)


def test_where_they_come_to_rest():
    """Enumerated: all rankings by Plackett and Luce, all choices by Luce, all targets."""
    with jax.enable_x64(True):
        utility = jnp.array([0.3, -1.0, 2.0, 0.5])
        orders = jnp.array(list(itertools.permutations(range(4))))
        ones = jnp.ones((24, 4))
        chances = jnp.exp(-jax.jit(plackett_luce_loss)(utility[orders], ones))
        for loss in (plackett_luce_loss, best_versus_rest_loss):
            slope = jax.jit(jax.grad(lambda s, loss=loss: jnp.sum(chances * loss(s[orders], ones))))
            np.testing.assert_allclose(slope(utility + 3), 0.0, atol=1e-12)
            assert np.abs(slope(2 * utility)).max() > 1e-2
        targets = jnp.array([1.0, 0.0, -2.0, 4.0])
        slope = jax.jit(jax.grad(lambda s: listnet_loss(s, targets, jnp.ones(4), temperature=0.7)))
        np.testing.assert_allclose(slope(targets / 0.7 - 3), 0.0, atol=1e-12)


def test_no_label_is_too_large():
    scores, ones = jnp.float32([-1e4, 1e4, 0.0]), jnp.ones(3)
    value, slope = BOTH["lipo_lambda"](scores, jnp.float32([1e4, 0.0, -1e4]), ones)
    assert np.isfinite(float(value))
    assert np.all(np.isfinite(slope))
    at_64, _ = BOTH["lipo_lambda"](scores, jnp.float32([64.0, 0.0, -1e4]), ones)
    assert float(value) == pytest.approx(float(at_64), rel=1e-6)


@pytest.mark.parametrize("name", ["listmle", "softmax", "pairwise_logistic", "lambda"])
def test_agrees_with_rax_on_ragged_lists(name):
    """With what rax has for a convention: labels sorted by us, its mean or sum over pairs, its scale of a weight."""
    lists = {key: np.array([row[key] for row in RAX["lists"]], np.float32) for key in RAX["lists"][0]}
    scores, labels, mask = lists["scores"], lists["labels"], lists["mask"]
    if name == "listmle":
        order = np.argsort(np.where(mask > 0, -labels, 99), axis=1)
        scores, mask = (np.take_along_axis(x, order, axis=1) for x in (scores, mask))
    loss = {
        "listmle": EVERY["plackett_luce"],
        "softmax": listnet_loss,
        "pairwise_logistic": all_pairs_loss,
        "lambda": lambda *lists: 5 * math.log(2) * lipo_lambda_loss(*lists),
    }[name]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(scores, labels, mask)
    golden = RAX["losses"][name]
    expected = np.array(golden["gradients"])
    if name == "listmle":
        expected = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(values, golden["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-6)
