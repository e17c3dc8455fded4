"""The regularised Nash policy: written tables, games that iteration cannot solve, and its certificate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from prefjax.games import duality_gap, expected_preference, nash_md, regularized_nash, win_rate
from tests.games.known import BT3, CYC, M2, RPS, UNIFORM, random_game

BETAS = (0.05, 0.1, 0.5, 1.0)
TABLE = {
    "RPS, uniform": (RPS, UNIFORM, [[1 / 3, 1 / 3, 1 / 3]] * 4),
    "RPS, M2": (
        RPS,
        M2,
        [
            [0.377434, 0.276500, 0.346065],
            [0.432065, 0.230329, 0.337605],
            [0.643506, 0.193193, 0.163301],
            [0.641591, 0.234363, 0.124045],
        ],
    ),
    "CYC, uniform": (
        CYC,
        UNIFORM,
        [
            [0.369593, 0.215843, 0.414564],
            [0.392340, 0.224997, 0.382662],
            [0.374140, 0.301443, 0.324418],
            [0.355246, 0.319198, 0.325556],
        ],
    ),
    "CYC, M2": (
        CYC,
        M2,
        [
            [0.459067, 0.128652, 0.412281],
            [0.591386, 0.092861, 0.315753],
            [0.687137, 0.191921, 0.120943],
            [0.652345, 0.240727, 0.106928],
        ],
    ),
    "BT3, uniform": (
        BT3,
        UNIFORM,
        [
            [0.965243, 0.000305, 0.034452],
            [0.828481, 0.013268, 0.158251],
            [0.461952, 0.195859, 0.342189],
            [0.397407, 0.258730, 0.343864],
        ],
    ),
    "BT3, M2": (
        BT3,
        M2,
        [
            [0.993924, 0.000165, 0.005911],
            [0.960953, 0.008576, 0.030471],
            [0.744041, 0.164588, 0.091371],
            [0.677414, 0.225173, 0.097413],
        ],
    ),
}


def residual(game, reference, logp, beta):
    """How far log π/μ is from P(· ≻ π)/β, up to a constant; in NumPy, for one game or many."""
    logp = np.asarray(logp, np.float64)
    u = logp - np.log(reference) - np.einsum("...ij,...j->...i", game, np.exp(logp)) / beta
    return np.abs(u - u.mean(axis=-1, keepdims=True)).max()


@pytest.mark.parametrize("name", TABLE)
def test_the_written_table(name):
    game, reference, expected = TABLE[name]
    with jax.enable_x64(True):
        solve = jax.jit(regularized_nash)
        for beta, policy in zip(BETAS, expected, strict=True):
            logp = solve(jnp.asarray(game), jnp.log(jnp.asarray(reference)), beta=beta)
            np.testing.assert_allclose(np.exp(logp), policy, atol=6e-7)
            assert residual(game, reference, logp, beta) < 1e-10
            gap = duality_gap(logp, jnp.log(jnp.asarray(reference)), jnp.asarray(game), beta=beta)
            assert abs(float(gap)) < 1e-14


@pytest.mark.parametrize("answers", [3, 50])
def test_random_cyclic_games_down_to_prices_where_iteration_diverges(answers):
    games, references = map(np.stack, zip(*[random_game(seed, answers) for seed in range(20)], strict=True))
    for precision, tolerance in (
        (jnp.float64, lambda beta: 1e-10),
        (jnp.float32, lambda beta: 1e-6 * (1 + 1 / beta)),
    ):
        with jax.enable_x64(precision == jnp.float64):
            solve = jax.jit(regularized_nash)
            for beta in (0.01, 0.05, 0.5, 5.0):
                logp = solve(
                    jnp.asarray(games, precision), jnp.log(jnp.asarray(references, precision)), beta=beta
                )
                assert logp.dtype == precision
                assert residual(games, references, logp, beta) < tolerance(beta)


def test_plain_iteration_does_diverge_there():
    # What the solver is for: the fixed-point map on rock, paper, scissors below its critical price of 0.289.
    for beta, stays in ((0.25, False), (0.33, True)):
        policy = np.array([0.34, 0.33, 0.33])
        for _ in range(2000):
            logits = RPS @ policy / beta
            policy = np.exp(logits - logits.max())
            policy /= policy.sum()
        assert (np.abs(policy - 1 / 3).max() < 1e-6) == stays


def test_the_limit_of_nash_md():
    with jax.enable_x64(True):
        game, reference = (jnp.asarray(x) for x in random_game(3, 10))
        last = nash_md(jnp.zeros(10), jnp.log(reference), game, beta=0.2, num_steps=20000)[-1]
        nash = regularized_nash(game, jnp.log(reference), beta=0.2)
    np.testing.assert_allclose(np.exp(last), np.exp(nash), atol=1e-5)


def test_the_certificate_is_the_best_gain_over_a_policy():
    with jax.enable_x64(True):
        beta = 0.2
        game, reference = (jnp.asarray(x) for x in random_game(4, 6))
        logp = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (6,), jnp.float64))

        def kl(p):
            return jnp.sum(p * (jnp.log(p) - jnp.log(reference)))

        def gain(logits):
            policy = jax.nn.softmax(logits)
            return win_rate(policy, jnp.exp(logp), game) - beta * kl(policy) + beta * kl(jnp.exp(logp)) - 0.5

        gap = duality_gap(logp, jnp.log(reference), game, beta=beta)
        response = jnp.log(reference) + expected_preference(jnp.exp(logp), game) / beta
        np.testing.assert_allclose(gain(response), gap, atol=1e-13)
        others = response[None] + 0.3 * jax.random.normal(jax.random.key(1), (200, 6), jnp.float64)
        assert np.all(jax.vmap(gain)(others) < gap)


@pytest.mark.parametrize(
    ("coef", "policy", "gap"),
    [
        (0.0, [0.591386, 0.092861, 0.315753], 0.0),
        (0.125, [0.600512, 0.074369, 0.325119], 5.103645e-4),
        (0.5, [0.665574, 0.034071, 0.300355], 6.440929e-3),
        (1.0, [0.904741, 0.020379, 0.074880], 4.305300e-2),
    ],
)
def test_where_nash_md_pg_rests_against_a_fixed_mixture(coef, policy, gap):
    # π ∝ μ exp(P(· ≻ π^mix)/β), here by damped iteration.
    with jax.enable_x64(True):
        game, reference, beta = jnp.asarray(CYC), jnp.log(jnp.asarray(M2)), 0.1

        def towards(_, logp):
            mixture = jax.nn.softmax((1 - coef) * logp + coef * reference)
            return jax.nn.log_softmax(logp + 0.02 * (reference + game @ mixture / beta - logp))

        logp = jax.lax.fori_loop(0, 20000, towards, reference)
        found = duality_gap(logp, reference, game, beta=beta)
    np.testing.assert_allclose(np.exp(logp), policy, atol=6e-7)
    assert float(found) == pytest.approx(gap, rel=2e-7, abs=1e-12)


def test_an_absent_answer_is_a_smaller_game():
    game, reference = random_game(5, 4)
    small = game[:3, :3], jnp.log(jnp.float32(reference[:3]))
    padded = jnp.float32(game), jnp.append(jnp.log(jnp.float32(reference[:3])), -jnp.inf)
    whole = regularized_nash(*padded, beta=0.1)
    part = regularized_nash(jnp.float32(small[0]), small[1], beta=0.1)
    np.testing.assert_allclose(np.exp(whole), np.append(np.exp(part), 0.0), atol=1e-5)
    gap = duality_gap(whole, padded[1], padded[0], beta=0.1)
    assert float(gap) == pytest.approx(0.0, abs=1e-6)


def test_derivatives_are_those_of_the_implicit_function():
    with jax.enable_x64(True):
        game, reference = (jnp.asarray(x) for x in random_game(6, 5))
        skew = jnp.triu(jax.random.normal(jax.random.key(0), (5, 5), jnp.float64), 1)

        def first(move, beta, log_reference):
            return regularized_nash(game + move * (skew - skew.T), log_reference, beta=beta)[0]

        at = 0.0, 0.1, jnp.log(reference)
        slopes = jax.grad(first, argnums=(0, 1, 2))(*at)
        h = 1e-5
        numeric = [
            (first(h, *at[1:]) - first(-h, *at[1:])) / (2 * h),
            (first(0.0, 0.1 + h, at[2]) - first(0.0, 0.1 - h, at[2])) / (2 * h),
            [
                (first(0.0, 0.1, at[2].at[i].add(h)) - first(0.0, 0.1, at[2].at[i].add(-h))) / (2 * h)
                for i in range(5)
            ],
        ]
        for slope, expected in zip(slopes, numeric, strict=True):
            np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-8)


def test_batches_sweeps_and_devices():
    games, references = map(np.stack, zip(*[random_game(seed, 4) for seed in range(8)], strict=True))
    game, reference = jnp.float32(games), jnp.log(jnp.float32(references))
    each = jnp.stack([regularized_nash(g, r, beta=0.1) for g, r in zip(game, reference, strict=True)])
    np.testing.assert_allclose(regularized_nash(game, reference, beta=0.1), each, atol=1e-4)
    as_block = regularized_nash(game.reshape(2, 4, 4, 4), reference.reshape(2, 4, 4), beta=0.1)
    np.testing.assert_allclose(as_block.reshape(8, 4), each, atol=1e-4)
    np.testing.assert_allclose(
        jax.pmap(lambda g, r: regularized_nash(g, r, beta=0.1))(game, reference), each, atol=1e-4
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("data")
    solve = jax.shard_map(
        lambda g, r: regularized_nash(g, r, beta=0.1), mesh=mesh, in_specs=split, out_specs=split
    )
    np.testing.assert_allclose(jax.jit(solve)(game, reference), each, atol=1e-4)

    chex.clear_trace_counter()
    once = jax.jit(chex.assert_max_traces(regularized_nash, n=1))
    swept = jax.vmap(lambda b: regularized_nash(game[0], reference[0], beta=b))(jnp.float32([0.1, 0.3]))
    for beta, row in zip((0.1, 0.3), swept, strict=True):
        np.testing.assert_allclose(once(game[0], reference[0], beta=beta), row, atol=1e-4)
