"""Nash-MD-PG by enumeration: on a tiny language the estimator's mean gradient is the exact one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.games import geometric_mixture, regularized_nash
from prefjax.losses import nash_md_loss, reinforce_loss

VOCABULARY, HORIZON, BETA = 3, 3, 0.1


class Language:
    """All sequences of a language, and the log-probabilities that a table of logits gives them.

    A row of logits for every prefix: the policy can be any distribution over the sequences. With `stop`,
    token 2 ends a sequence early.
    """

    def __init__(self, stop: bool, vocabulary: int = VOCABULARY, horizon: int = HORIZON):
        prefixes = [p for n in range(horizon) for p in itertools.product(range(vocabulary), repeat=n)]
        whole = itertools.product(range(vocabulary), repeat=horizon)
        ended = [s[: s.index(2) + 1] if stop and 2 in s else s for s in whole]
        self.sequences = sorted(set(ended))
        self.rows = len(prefixes)
        shape = len(self.sequences), horizon
        self.prefix, self.token, self.mask = (np.zeros(shape, int) for _ in range(3))
        for i, sequence in enumerate(self.sequences):
            for t, token in enumerate(sequence):
                self.prefix[i, t], self.token[i, t], self.mask[i, t] = prefixes.index(sequence[:t]), token, 1

    def logps(self, logits):
        """Of every token of every sequence, 0 where there is none."""
        return jnp.where(self.mask == 1, jax.nn.log_softmax(logits)[self.prefix, self.token], 0.0)

    def logp(self, logits):
        return self.logps(logits).sum(axis=-1)


def draw(language, seed):
    """Logits of a policy and of a reference, and a judge with cycles."""
    keys = jax.random.split(jax.random.key(seed), 3)
    tables = (jax.random.normal(k, (language.rows, VOCABULARY), jnp.float64) for k in keys[:2])
    noise = jax.random.normal(keys[2], (len(language.sequences),) * 2, jnp.float64)
    return *tables, jax.nn.sigmoid(2 * (noise - noise.T))


def exact_gradient(language, theta, reference, judge, coef):
    """∇[P(π ≻ sg π^mix) - β KL(π‖μ)], the mixture made token by token, as decoding makes it."""
    mixture = jnp.exp(language.logp(geometric_mixture(theta, reference, coef=coef)))

    def objective(theta):
        logp = language.logp(theta)
        policy = jnp.exp(logp)
        kl = jnp.sum(policy * (logp - language.logp(reference)))
        return policy @ judge @ jax.lax.stop_gradient(mixture) - BETA * kl

    return jax.grad(objective)(theta)


def expected_gradient(language, theta, reference, judge, coef, loss):
    """The mean of -∇loss over all pairs of a sample of the policy and one of the mixture."""
    count = len(language.sequences)
    mixture = jnp.exp(language.logp(geometric_mixture(theta, reference, coef=coef)))
    chances = jnp.exp(language.logp(theta))[:, None] * mixture[None]

    def mean_loss(theta):
        def each(x):
            return jnp.broadcast_to(x[:, None], (count, count, *x.shape[1:]))

        losses = loss(each(language.logps(theta)), each(language.logps(reference)), judge)
        return -jnp.sum(jax.lax.stop_gradient(chances) * losses)

    return jax.grad(mean_loss)(theta)


def of_sequences(logps, reference_logps, preference):
    return nash_md_loss(logps.sum(axis=-1), reference_logps.sum(axis=-1), preference, beta=BETA)


def of_tokens(logps, reference_logps, preference):
    """What TRL and EasyDeL do instead: a log-ratio meets only its own token's log-probability."""
    ratio = jax.lax.stop_gradient(logps - reference_logps)
    return BETA * jnp.sum(ratio * logps, axis=-1) - (preference - 0.5) * logps.sum(axis=-1)


def test_the_language_is_a_language():
    assert len(Language(stop=False).sequences) == 27
    assert len(Language(stop=True).sequences) == 15
    for stop in (False, True):
        language = Language(stop)
        logp = language.logp(jax.random.normal(jax.random.key(0), (language.rows, VOCABULARY)))
        assert float(jnp.exp(logp).sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("stop", [False, True], ids=["27 of one length", "15 of many"])
@pytest.mark.parametrize("coef", [0.0, 0.125, 1.0])
def test_the_mean_gradient_is_the_exact_one(stop, coef):
    language = Language(stop)
    with jax.enable_x64(True):
        setting = language, *draw(language, seed=1), coef
        exact = exact_gradient(*setting)
        assert np.abs(exact).max() > 1e-2
        np.testing.assert_allclose(expected_gradient(*setting, of_sequences), exact, atol=1e-12)


@pytest.mark.parametrize("stop", [False, True], ids=["27 of one length", "15 of many"])
def test_the_product_token_by_token_is_not(stop):
    language = Language(stop)
    with jax.enable_x64(True):
        setting = language, *draw(language, seed=1), 0.125
        error = np.abs(expected_gradient(*setting, of_tokens) - exact_gradient(*setting))
    assert error.max() > 1e-3
    # The last token has nothing after it that it could be charged for.
    np.testing.assert_allclose(error[4:], 0.0, atol=1e-12)


def test_two_tokens_by_hand():
    # P(1) = σ(.3), then σ(.5) after 0 and σ(-.7) after 1; the reference's logits are -.2, .1, .4.
    language = Language(stop=False, vocabulary=2, horizon=2)
    with jax.enable_x64(True):
        reference = jnp.array([-0.2, 0.1, 0.4])

        def logps(x):
            return language.logps(jnp.stack([0 * x, x], axis=-1))

        def gradient(loss):
            chances = jnp.exp(logps(theta).sum(axis=-1))
            return jax.grad(lambda x: jnp.sum(chances * loss(logps(x), logps(reference))))(theta)

        def whole(logps, reference_logps):
            half = jnp.full(4, 0.5)
            return nash_md_loss(logps.sum(axis=-1), reference_logps.sum(axis=-1), half, beta=1.0)

        def by_token(logps, reference_logps):
            return jnp.sum(jax.lax.stop_gradient(logps - reference_logps) * logps, axis=-1)

        theta = jnp.array([0.3, 0.5, -0.7])
        sequences = logps(theta).sum(axis=-1)
        kl = jnp.sum(jnp.exp(sequences) * (sequences - logps(reference).sum(axis=-1)))
        assert float(kl) == pytest.approx(0.1224194, abs=6e-8)
        np.testing.assert_allclose(gradient(whole), [0.1529166, 0.0400030, -0.1400974], atol=6e-8)
        np.testing.assert_allclose(gradient(by_token), [0.1222292, 0.0400030, -0.1400974], atol=6e-8)


CYC = np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]])


@pytest.mark.parametrize(
    ("beta", "written"),
    [
        (0.008, [0.0107915822, -0.0065721683, -0.0042194138]),
        (0.1, [0.0267242711, 0.0003803467, -0.0271046177]),
    ],
)
def test_the_written_gradient_of_three_arms(beta, written):
    with jax.enable_x64(True):
        theta, reference = jnp.array([0.2, -0.1, 0.4]), jnp.log(jnp.array([0.5, 0.3, 0.2]))
        against = jnp.asarray(CYC) @ jnp.exp(geometric_mixture(theta, reference, coef=0.125))

        def mean_loss(theta, shift):
            logp = jax.nn.log_softmax(theta)
            losses = nash_md_loss(logp, reference, against + shift, beta=beta)
            return -jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * losses)

        gradient = jax.grad(mean_loss)(theta, 0.0)
        np.testing.assert_allclose(gradient, written, atol=6e-11)
        np.testing.assert_allclose(gradient.sum(), 0.0, atol=1e-15)
        # The 1/2 is a control variate: any other constant has the same mean gradient.
        np.testing.assert_allclose(jax.grad(mean_loss)(theta, 0.5), gradient, atol=1e-15)


def test_a_step_towards_the_mixture_is_a_shorter_step_towards_the_reference():
    with jax.enable_x64(True):
        theta, reference = jnp.array([0.2, -0.1, 0.4]), jnp.log(jnp.array([0.5, 0.3, 0.2]))

        def kl_gradient(other):
            def kl(theta):
                logp = jax.nn.log_softmax(theta)
                return jnp.sum(jnp.exp(logp) * (logp - other))

            return jax.grad(kl)(theta)

        to_mixture = kl_gradient(geometric_mixture(theta, reference, coef=0.125))
        np.testing.assert_allclose(to_mixture, [-0.0216476752, -0.0094463519, 0.0310940271], atol=6e-11)
        np.testing.assert_allclose(to_mixture, 0.125 * kl_gradient(reference), atol=1e-15)


@pytest.mark.parametrize("judge", ["transitive", "cyclic"])
def test_descent_ends_at_the_regularised_nash_policy(judge):
    language = Language(stop=True)
    with jax.enable_x64(True):
        theta, reference, preference = draw(language, seed=2)
        if judge == "transitive":
            utility = jax.random.normal(jax.random.key(3), (15,), jnp.float64)
            preference = jax.nn.sigmoid(utility[:, None] - utility[None])
        nash = regularized_nash(preference, language.logp(reference), beta=BETA)

        def step(theta, _):
            setting = language, theta, reference, preference, 0.0
            return theta + 4.0 * expected_gradient(*setting, of_sequences), None

        theta = jax.jit(lambda theta: jax.lax.scan(step, theta, length=6000)[0])(theta)
        distance = jnp.sum(jnp.exp(nash) * (nash - language.logp(theta)))
        moved = jnp.sum(jnp.exp(nash) * (nash - language.logp(reference)))
    assert float(moved) > 0.1
    assert float(distance) < 1e-4


def test_without_a_price_of_kl_it_is_reinforce_on_the_preference():
    logp, reference, preference = jax.random.normal(jax.random.key(0), (3, 16))
    preference = jax.nn.sigmoid(preference)

    def gradient(loss):
        return jax.value_and_grad(lambda logp: loss(logp).sum())(logp)

    found = gradient(lambda logp: nash_md_loss(logp, reference, preference, beta=0.0))
    expected = gradient(lambda logp: reinforce_loss(logp, preference - 0.5))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
