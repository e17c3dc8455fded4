"""What a preference matrix is, and how one says that it is not one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.games import check_preference, expected_preference, win_rate
from tests.games.known import BT3, CYC, RPS, random_game


def test_games_are_preference_matrices():
    for game in (RPS, BT3, CYC, random_game(0, 20)[0], np.stack([RPS, CYC]), jnp.float32(BT3)):
        check_preference(np.asarray(game))


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ((0, 1), np.nan, r"entry \(0, 1\) is nan; expected|entry \(0, 1\) is nan; finite"),
        ((2, 0), 1.25, r"entry \(2, 0\) is 1.25; .*\[0, 1\]"),
        ((0, 2), 0.4, r"entry \(0, 2\) is 0.4 and with its mirror image sums to 1.1"),
        ((1, 1), 0.6, r"entry \(1, 1\) is 0.6 and with its mirror image sums to 1.2"),
    ],
)
def test_the_first_bad_entry_is_named(entry, value, words):
    game = CYC.copy()
    game[entry] = value
    with pytest.raises(InputError, match=words) as error:
        check_preference(game, where="judge.npy")
    assert str(error.value).startswith("judge.npy: ")


def test_a_batch_names_its_game():
    games = np.stack([RPS, CYC])
    games[1, 2, 1] = -0.5
    with pytest.raises(InputError, match=r"entry \(1, 2, 1\) is -0.5"):
        check_preference(games)


def test_winning_and_earning_disagree():
    # Both satisfy π(y₁) = 2π(y₂); the first earns less under the very rewards that make the game, and wins.
    rewards = np.array([0.0, -np.log(9), -np.log(2)])
    with jax.enable_x64(True):
        one, other = jnp.array([2 / 3, 1 / 3, 0.0]), jnp.array([0.0, 0.0, 1.0])
        assert float(win_rate(one, other, jnp.asarray(BT3))) == pytest.approx(50 / 99, abs=1e-12)
        assert float(one @ rewards) == pytest.approx(-0.732408, abs=6e-7)
        assert float(other @ rewards) == pytest.approx(-0.693147, abs=6e-7)


@pytest.mark.parametrize(
    ("game", "nash"),
    [
        (RPS, [1 / 3, 1 / 3, 1 / 3]),
        (CYC, [1 / 3, 2 / 9, 4 / 9]),  # of a 3-cycle with margins A₁₂, A₂₃, A₃₁: ∝ (A₂₃, A₃₁, A₁₂)
        (BT3, [1.0, 0.0, 0.0]),
    ],
)
def test_no_answer_beats_the_nash_policy(game, nash):
    with jax.enable_x64(True):
        against = expected_preference(jnp.array(nash), jnp.asarray(game))
    assert np.all(np.asarray(against) <= 0.5 + 1e-12)
    support = np.array(nash) > 0
    np.testing.assert_allclose(against[support], 0.5, atol=1e-12)


def test_three_kinds_of_raters_make_a_cycle():
    # Orders 1≻2≻3, 2≻3≻1, 3≻1≻2 in proportions a, b, c: Nash (1-2c, 1-2a, 1-2b).
    a, b, c = 0.3, 0.4, 0.3
    game = np.array([[0.5, a + c, 1 - b - c], [1 - a - c, 0.5, a + b], [b + c, 1 - a - b, 0.5]])
    check_preference(game)
    with jax.enable_x64(True):
        against = expected_preference(jnp.array([1 - 2 * c, 1 - 2 * a, 1 - 2 * b]), jnp.asarray(game))
    np.testing.assert_allclose(against, 0.5, atol=1e-12)


def test_oneself_is_beaten_half_of_the_time_in_any_batch():
    games = jnp.stack([jnp.float32(RPS), jnp.float32(CYC), jnp.float32(BT3)])
    policies = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 3)))
    np.testing.assert_allclose(win_rate(policies, policies, games), 0.5, atol=1e-6)
    others = jnp.roll(policies, 1, axis=0)
    both = win_rate(policies, others, games) + win_rate(others, policies, games)
    np.testing.assert_allclose(both, 1.0, atol=1e-6)
