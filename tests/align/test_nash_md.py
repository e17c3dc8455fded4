"""Nash-MD-PG on a language small enough to enumerate, with the real decoder and sampler, against the exact game."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefjax.align import nash_md_objective, nash_md_rollout, summed_logps
from prefjax.games import check_preference, geometric_mixture, regularized_nash
from prefjax.train import make_mesh, place
from prefjax.types import mean_of
from tests.align.test_rows import padded
from tests.policy.goldens import next_logits, tiny

# Four tokens, of which 3 stops, and room for two: 1 + 3 + 9 completions, all of them.
STOP, ROOM, PROMPT = 3, 2, [1, 2]
COMPLETIONS = [[STOP], *([a, STOP] for a in range(3)), *([a, b] for a in range(3) for b in range(3))]
N = len(COMPLETIONS)
EVERY = padded([(PROMPT, y) for y in COMPLETIONS], width=4)


@cache
def policy_and_reference(scale=8.0):
    shape = {"vocab_size": 4, "num_layers": 1, "scale": scale}
    policy, params = tiny(seed=3, **shape)
    return policy, params, tiny(seed=4, **shape)[1]


@jax.jit
def exact_logp(policy, params):
    """log π of every completion."""
    return summed_logps(policy, params, EVERY, max_completion=ROOM)


def token_mixture(policy, params, reference, coef):
    """log π^mix of every completion, mixed token by token from the logits of each prefix."""

    def following(prefix):
        z = [jnp.asarray(next_logits(policy, tree, prefix)) for tree in (params, reference)]
        return np.asarray(geometric_mixture(*z, coef=coef), np.float64)

    return np.array([sum(following(PROMPT + y[:i])[token] for i, token in enumerate(y)) for y in COMPLETIONS])


def which(rows):
    """The number of each completion in COMPLETIONS."""
    at = rows["prompt_lengths"][:, None]
    first, second = (jnp.take_along_axis(rows["tokens"], at + i, axis=1)[:, 0] for i in range(2))
    second = jnp.where(second == STOP, first + 1, 4 + 3 * first + second)
    return jnp.where(first == STOP, 0, second)


def by_table(table, first, second):
    """A judge that knows every preference."""
    return table[which(first), which(second)]


def transitive(seed=0):
    utility = jax.random.normal(jax.random.key(seed), (N,))
    return jax.nn.sigmoid(2 * (utility[:, None] - utility[None, :]))


def cyclic(seed=1):
    noise = 2 * jax.random.normal(jax.random.key(seed), (N, N))
    return jax.nn.sigmoid(noise - noise.T)


def prompts_of(rows, microbatches=1):
    """The one prompt, many times: leaves are [M, B, ...]."""
    batch = {
        "index": jnp.arange(rows),
        "weight": jnp.ones(rows),
        "prompt": {"tokens": jnp.tile(jnp.array(PROMPT), (rows, 1)), "lengths": jnp.full(rows, 2)},
    }
    return jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), batch)


@partial(jax.jit, static_argnames=("policy", "judge", "coef"))
def rolled(policy, judge, coef, params, reference, table, batch, key):
    rollout = nash_md_rollout(policy, judge, max_new_tokens=ROOM, stop_tokens=(STOP,), mixture_coef=coef)
    return rollout(params, reference, table, batch, key)


def test_all_completions_together_are_certain():
    policy, params, reference = policy_and_reference()
    for tree in (params, reference):
        logp = exact_logp(policy, tree)
        assert float(jnp.exp(logp).sum()) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(logp, token_mixture(policy, tree, tree, 0.5), atol=1e-5)
    assert which(EVERY).tolist() == list(range(N))
    check_preference(np.asarray(cyclic()))
    check_preference(np.asarray(transitive()))


@pytest.mark.parametrize("coef", [0.0, 0.375])
def test_the_expected_gradient_is_that_of_the_objective(coef):
    """Σ_yy' π(y) π^mix(y') ĝ(y, y') = ∇[P(π ≻ sg π^mix) - β KL(π‖μ)], to 1e-5 of its largest entry."""
    policy, params, reference = policy_and_reference()
    beta, table = 0.3, cyclic()
    opponent = jnp.exp(jnp.asarray(token_mixture(policy, params, reference, coef), jnp.float32))
    reference_logp = exact_logp(policy, reference)

    def exact(params):
        logp = exact_logp(policy, params)
        return jnp.sum(jnp.exp(logp) * (table @ opponent - beta * (logp - reference_logp)))

    own, other = (index.reshape(-1) for index in jnp.meshgrid(jnp.arange(N), jnp.arange(N), indexing="ij"))
    logp = exact_logp(policy, params)
    batch = {
        "index": own,
        "weight": jnp.exp(logp)[own] * opponent[other],
        "completion": {
            **jax.tree.map(lambda leaf: leaf[own], EVERY),
            "behaviour_logp": logp[own],
            "reference_logp": reference_logp[own],
            "stopped": jnp.ones(N * N),
        },
        "preference": table[own, other],
    }
    objective = nash_md_objective(policy, beta=beta, max_new_tokens=ROOM)

    def surrogate(params):
        means = mean_of(objective(params, batch, jax.random.key(0)))
        return means["loss"], means

    wanted = jax.jit(jax.grad(exact))(params)
    grads, means = jax.jit(jax.grad(surrogate, has_aux=True))(params)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    assert largest > 0.05
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(-got, want, rtol=0, atol=1e-5 * max(1.0, largest))
    # What is logged are the two parts of the objective.
    p = jnp.exp(logp)
    assert means["preference"] == pytest.approx(float(p @ table @ opponent), abs=1e-5)
    assert means["kl"] == pytest.approx(float(p @ (logp - reference_logp)), abs=1e-5)
    assert means["completions/length"] == pytest.approx(float(2 - p[0]), abs=1e-5)
    assert means["ratio"] == pytest.approx(1, abs=1e-5)


def test_samples_follow_the_policy_and_the_token_mixture():
    policy, params, reference = policy_and_reference()
    # This judge tells what it was shown: the whole part is y, the rest y'.
    shown = rolled(policy, tell, 0.375, params, reference, None, prompts_of(16384), jax.random.key(5))
    own, other = np.divmod(np.asarray(shown["preference"][0]).round().astype(int), N)
    np.testing.assert_array_equal(own, which(jax.tree.map(lambda leaf: leaf[0], only(shown))))

    def counted(drawn):
        return np.bincount(drawn, minlength=N) / len(drawn)

    mixture, exact = (
        np.exp(token_mixture(policy, params, reference, 0.375)),
        np.exp(exact_logp(policy, params)),
    )
    away = [
        np.abs(counted(other) - p).sum() / 2 for p in (mixture, exact, np.exp(exact_logp(policy, reference)))
    ]
    assert np.abs(counted(own) - exact).sum() / 2 < 0.02
    assert away[0] < 0.02
    assert min(away[1:]) > 0.06
    # Independent: as often the same completion as chance has it.
    assert np.mean(own == other) == pytest.approx(mixture @ exact, abs=0.02)

    completion = jax.tree.map(lambda leaf: leaf[0], shown["completion"])
    np.testing.assert_allclose(completion["behaviour_logp"], exact_logp(policy, params)[own], atol=1e-5)
    np.testing.assert_allclose(completion["reference_logp"], exact_logp(policy, reference)[own], atol=1e-5)
    np.testing.assert_array_equal(completion["stopped"], own < 4)


def tell(_, first, second):
    return (N * which(first) + which(second)).astype(jnp.float32)


def only(batch):
    return {name: batch["completion"][name] for name in ("tokens", "prompt_lengths", "lengths")}


def test_where_the_policy_is_the_reference_ratio_is_1_and_kl_0():
    policy, params, _ = policy_and_reference()
    batch = rolled(policy, by_table, 0.125, params, params, cyclic(), prompts_of(64), jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[0], batch)
    objective = nash_md_objective(policy, beta=0.1, max_new_tokens=ROOM)
    summed = jax.jit(objective)(params, batch, jax.random.key(1))
    means = mean_of(summed)
    assert means["ratio"] == pytest.approx(1, abs=1e-5)
    assert means["kl"] == pytest.approx(0, abs=1e-5)
    assert means["preference"] == pytest.approx(float(batch["preference"].mean()), abs=1e-6)
    assert set(np.asarray(batch["preference"])) <= set(np.asarray(cyclic()).reshape(-1))
    assert summed["loss"].weight == 64


def test_rows_of_weight_0_may_even_be_nan():
    policy, params, reference = policy_and_reference()
    batch = rolled(policy, by_table, 0.125, params, reference, cyclic(), prompts_of(64), jax.random.key(0))
    batch = jax.tree.map(lambda leaf: leaf[0], batch)
    objective = nash_md_objective(policy, beta=0.1, max_new_tokens=ROOM)
    weight = jnp.ones(64).at[:8].set(0.0)
    spoilt = {**batch, "weight": weight, "preference": jnp.where(weight == 0, jnp.nan, batch["preference"])}
    gradient = jax.jit(jax.grad(lambda params, batch: mean_of(objective(params, batch, None))["loss"]))
    grads = [gradient(params, b) for b in ({**batch, "weight": weight}, spoilt)]
    for want, got in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_devices_do_not_change_what_is_drawn():
    """A row draws by its microbatch's number and its own place in it; the mesh has no say."""
    policy, params, reference = policy_and_reference()
    batch, key = prompts_of(16), jax.random.key(7)
    args = params, reference, cyclic()
    cut = jax.tree.map(lambda leaf: leaf.reshape(2, 8, *leaf.shape[2:]), batch)
    alone = rolled(policy, by_table, 0.25, *args, cut, key)
    placed = place(jax.tree.map(lambda leaf: leaf[0], batch), make_mesh(data=4, fsdp=2), 2)
    together = rolled(policy, by_table, 0.25, *args, placed, key)
    np.testing.assert_array_equal(together["completion"]["tokens"], alone["completion"]["tokens"])
    np.testing.assert_array_equal(together["preference"], alone["preference"])
    assert (alone["completion"]["tokens"][0] != alone["completion"]["tokens"][1]).any()
    np.testing.assert_array_equal(alone["index"], cut["index"])


@partial(jax.jit, static_argnames=("policy", "steps", "rows"))
def trained(policy, params, reference, table, key, *, steps=300, rows=256):
    """log π of every completion after Nash-MD-PG by self-play (c = 0), from samples alone."""
    rollout = nash_md_rollout(policy, by_table, max_new_tokens=ROOM, stop_tokens=(STOP,), mixture_coef=0.0)
    objective = nash_md_objective(policy, beta=0.2, max_new_tokens=ROOM)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def step(carry, i):
        params, state = carry
        batch = rollout(params, reference, table, prompts_of(rows), jax.random.fold_in(key, i))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        grads = jax.grad(lambda params: mean_of(objective(params, batch, None))["loss"])(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
    return summed_logps(policy, params, EVERY, max_completion=ROOM)


@pytest.mark.parametrize("game", [transitive, cyclic])
def test_from_samples_it_learns_the_regularised_nash_policy(game):
    policy, _, reference = policy_and_reference(4.0)
    reference_logp = exact_logp(policy, reference)
    nash = regularized_nash(game(), reference_logp, beta=0.2)

    def divergence(logp):
        return float(jnp.exp(nash) @ (nash - logp))

    logp = trained(policy, reference, reference, game(), jax.random.key(11))
    assert divergence(reference_logp) > 0.2
    assert divergence(logp) < 0.01
