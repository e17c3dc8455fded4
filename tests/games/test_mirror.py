"""Nash-MD: written iterates, the rate of its theorem, and where a constant step ends."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.games import geometric_mixture, nash_md, nash_md_bound, nash_md_step, regularized_nash
from tests.games.known import BT3, CYC, M2, RPS, random_game

START = np.array([0.2, 0.3, 0.5])


def kl(p, q):
    p, q = np.asarray(p), np.asarray(q)
    return float(np.sum(p * (np.log(p) - np.log(q))))


def logs(*policies):
    return tuple(jnp.log(jnp.asarray(p)) for p in policies)


def run(game, beta, num_steps):
    """All iterates as probabilities, and the policy that they approach, in float64."""
    with jax.enable_x64(True):
        start, reference = logs(START, M2)
        iterates = jnp.exp(nash_md(start, reference, jnp.asarray(game), beta=beta, num_steps=num_steps))
        nash = jnp.exp(regularized_nash(jnp.asarray(game), reference, beta=beta))
    return np.asarray(iterates), np.asarray(nash)


def test_one_step_by_hand():
    with jax.enable_x64(True):
        start, reference = logs(START, M2)
        mixture = geometric_mixture(start, reference, coef=0.05)
        after = nash_md_step(start, reference, jnp.asarray(RPS), beta=0.1, step_size=0.5)
        token_mixture = geometric_mixture(start, reference, coef=0.125)
    np.testing.assert_allclose(np.exp(mixture), [0.2172384, 0.3084408, 0.4743207], atol=6e-8)
    np.testing.assert_allclose(RPS @ np.exp(mixture), [0.4170600, 0.6285412, 0.4543988], atol=6e-8)
    np.testing.assert_allclose(np.exp(after), [0.2082144, 0.3286008, 0.4631848], atol=6e-8)
    np.testing.assert_allclose(np.exp(token_mixture), [0.2445218, 0.3197192, 0.4357589], atol=6e-8)


def test_the_step_is_the_argmax_that_it_claims_to_be():
    with jax.enable_x64(True):
        start, reference = logs(START, M2)
        mixture = jnp.exp(geometric_mixture(start, reference, coef=0.05))
        after = nash_md_step(start, reference, jnp.asarray(CYC), beta=0.1, step_size=0.5)

        def objective(logits):
            policy = jax.nn.softmax(logits)
            return 0.5 * policy @ CYC @ mixture - policy @ (jnp.log(policy) - jnp.log(mixture))

        np.testing.assert_allclose(jax.grad(objective)(after), 0.0, atol=1e-12)
        nearby = after[None] + 0.1 * jax.random.normal(jax.random.key(0), (50, 3), jnp.float64)
        assert np.all(jax.vmap(objective)(nearby) <= objective(after))


def test_written_iterates():
    iterates, _ = run(CYC, 0.1, 3)
    np.testing.assert_allclose(
        iterates,
        [
            START,
            [0.9047409, 0.0203789, 0.0748802],
            [0.8036829, 0.0181851, 0.1781320],
            [0.7197331, 0.0201670, 0.2600999],
        ],
        atol=6e-8,
    )


@pytest.mark.parametrize(
    ("game", "beta", "distances"),
    [
        (CYC, 0.1, [3.437794e-1, 1.413593e-2, 8.445861e-5, 8.183500e-7]),
        (RPS, 0.1, [5.891052e-1, 2.568013e-2, 1.560319e-5, 8.534782e-7]),
        (BT3, 0.5, [2.271512e-5, 1.469645e-6, 2.200180e-8, 2.3388e-10]),
    ],
    ids=["CYC", "RPS", "BT3"],
)
def test_the_last_iterate_at_the_written_distances_and_within_the_theorem(game, beta, distances):
    iterates, nash = run(game, beta, 1000)
    found = [kl(nash, policy) for policy in iterates]
    np.testing.assert_allclose([found[t] for t in (1, 10, 100, 1000)], distances, rtol=2e-5)
    for t in range(1, 1001):
        assert found[t] <= nash_md_bound(t, beta=beta)
        step_size = 2 / (beta * (t + 1))  # of the step from t - 1
        assert found[t] <= (1 - step_size * beta) * found[t - 1] + 2 * step_size**2


def test_the_bound_by_hand():
    bounds = [nash_md_bound(t, beta=0.1) for t in (1, 10, 100, 1000)]
    np.testing.assert_allclose(bounds, [400, 72.727273, 7.920792, 0.799201], rtol=1e-6)


@pytest.mark.parametrize("answers", [3, 50])
@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_random_games_stay_under_the_bound(answers, beta):
    games, references = map(np.stack, zip(*[random_game(seed, answers) for seed in range(5)], strict=True))
    with jax.enable_x64(True):
        game, reference = jnp.asarray(games), jnp.log(jnp.asarray(references))
        nash = jnp.exp(regularized_nash(game, reference, beta=beta))
        iterates = nash_md(jnp.zeros_like(reference), reference, game, beta=beta, num_steps=200)
        distance = jnp.sum(nash[:, None] * (jnp.log(nash)[:, None] - iterates), axis=-1)
    chex.assert_shape(iterates, (5, 201, answers))
    bound = np.array([nash_md_bound(t, beta=beta) for t in range(1, 201)])
    assert np.all(np.asarray(distance)[:, 1:] <= bound[None])


def test_the_first_step_forgets_where_it_started():
    with jax.enable_x64(True):
        (reference,) = logs(M2)
        starts = jnp.log(jnp.array([[0.2, 0.3, 0.5], [0.98, 0.01, 0.01]]))
        one, other = (nash_md(s, reference, jnp.asarray(CYC), beta=0.1, num_steps=1)[1] for s in starts)
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("step_size", "limit", "distance"),
    [
        (0.2, [0.592637, 0.089821, 0.317542], 5.72e-5),
        (0.5, [0.594649, 0.085307, 0.320044], 3.63e-4),
        (2.0, [0.607895, 0.064143, 0.327961], 6.10e-3),
    ],
)
def test_a_constant_step_ends_near_the_equilibrium_but_for_another_opponent_at_it(step_size, limit, distance):
    with jax.enable_x64(True):
        start, reference = logs(START, M2)
        game, beta = jnp.asarray(CYC), 0.1

        def against_the_mixture(_, logp):
            return nash_md_step(logp, reference, game, beta=beta, step_size=step_size)

        def against_oneself(_, logp):
            mixture = geometric_mixture(logp, reference, coef=step_size * beta)
            return jax.nn.log_softmax(mixture + step_size * game @ jnp.exp(logp))

        nash = np.exp(regularized_nash(game, reference, beta=beta))
        ended = np.exp(jax.lax.fori_loop(0, 5000, against_the_mixture, start))
        exact = np.exp(jax.lax.fori_loop(0, 5000, against_oneself, start))
    np.testing.assert_allclose(ended, limit, atol=6e-7)
    assert kl(nash, ended) == pytest.approx(distance, rel=2e-3)
    np.testing.assert_allclose(exact, nash, atol=1e-9)


def test_an_absent_answer_stays_absent_and_makes_no_nan():
    reference, policy = jnp.log(jnp.float32([0.6, 0.4, 0.0])), jnp.log(jnp.float32([0.0, 0.5, 0.5]))
    np.testing.assert_allclose(
        np.exp(geometric_mixture(policy, reference, coef=0.0)), [0.0, 0.5, 0.5], rtol=1e-6
    )
    np.testing.assert_allclose(
        np.exp(geometric_mixture(policy, reference, coef=1.0)), [0.6, 0.4, 0.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        np.exp(geometric_mixture(policy, reference, coef=0.5)), [0.0, 1.0, 0.0], rtol=1e-6
    )
    iterates = nash_md(jnp.zeros(3), reference, jnp.float32(CYC), beta=0.1, num_steps=20)
    np.testing.assert_array_equal(np.exp(iterates[1:, 2]), 0.0)
    assert not np.any(np.isnan(iterates))


def test_a_sweep_over_beta_compiles_once_and_maps():
    chex.clear_trace_counter()
    start, reference, game = jnp.zeros(3), jnp.log(jnp.float32(M2)), jnp.float32(CYC)

    @jax.jit
    @functools.partial(chex.assert_max_traces, n=1)
    def run(start, reference, game, beta):
        return nash_md(start, reference, game, beta=beta, num_steps=10)

    betas = (0.1, 0.5, 1.0)
    each = jnp.stack([run(start, reference, game, beta) for beta in betas])
    swept = jax.vmap(lambda b: nash_md(start, reference, game, beta=b, num_steps=10))(jnp.float32(betas))
    np.testing.assert_allclose(swept, each, rtol=1e-4, atol=1e-5)
    # The last iterate has a derivative in the price.
    slope = jax.grad(lambda b: nash_md(start, reference, game, beta=b, num_steps=10)[-1, 0])(0.5)
    assert np.isfinite(slope)
    assert slope != 0
