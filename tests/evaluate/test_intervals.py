"""Intervals: written quantiles, their own formulas, and coverage by simulation."""

import math

import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.evaluate import (
    Interval,
    bootstrap_interval,
    mean_interval,
    student_quantile,
    wilson_interval,
    win_rate_interval,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [  # any table of Student's t
        (0.975, 1, 12.7062047),
        (0.975, 2, 4.3026527),
        (0.975, 5, 2.5705818),
        (0.975, 30, 2.0422725),
        (0.975, 1000, 1.9623391),
        (0.995, 10, 3.1692727),
        (0.9995, 1, 636.6192488),
        (0.5, 7, 0.0),
    ],
)
def test_quantiles_of_student(probability, degrees, quantile):
    assert student_quantile(probability, degrees) == pytest.approx(quantile, rel=1e-7, abs=1e-7)


def test_three_values_by_hand():
    # s = 1, t = 4.30265, so 2 ± 4.30265/√3.
    assert mean_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        Interval(2.0, -0.4841377, 4.4841377, 3), abs=1e-7
    )
    assert mean_interval(np.array([0.4])) == Interval(0.4, -math.inf, math.inf, 1)
    assert mean_interval(np.full(5, 0.5)) == Interval(0.5, 0.5, 0.5, 5)


def test_wilson_by_hand():
    # n = 10, z = 1.959964: centre (p + .1920729)/1.3841459.
    assert wilson_interval(5, 10) == pytest.approx(Interval(0.5, 0.2365931, 0.7634069, 10), abs=1e-7)
    assert wilson_interval(0, 10) == pytest.approx(Interval(0.0, 0.0, 0.2775328, 10), abs=1e-7)
    assert wilson_interval(10, 10) == pytest.approx(Interval(1.0, 0.7224672, 1.0, 10), abs=1e-7)


def test_the_prompt_is_the_unit():
    # Eight samples that repeat their prompt's verdict are no more than one sample.
    once = np.array([1.0, 0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 1.0])
    repeated = np.repeat(once[:, None], 8, axis=1)
    assert win_rate_interval(repeated) == win_rate_interval(once)
    assert win_rate_interval(repeated.reshape(8, 4, 2)) == win_rate_interval(once)
    assert win_rate_interval(once).n == 8
    naive = mean_interval(repeated.ravel())
    honest = win_rate_interval(once)
    assert naive.high - naive.low < (honest.high - honest.low) / 2.5


def test_a_win_rate_stays_a_probability():
    interval = win_rate_interval(np.array([1.0, 1.0, 1.0, 0.9]))
    assert interval.high == 1.0
    assert 0.8 < interval.low < interval.mean


def simulate(interval, samples, truth, rounds=2000):
    """How often the interval holds the truth, over `rounds` draws."""
    return np.mean([low <= truth <= high for _, low, high, _ in (interval(samples()) for _ in range(rounds))])


def test_coverage_with_prompts_of_unequal_difficulty():
    generator = np.random.default_rng(0)

    def samples():  # 40 prompts, each with its own chance to win, four samples a prompt
        chance = generator.beta(1.2, 0.8, size=(40, 1))
        return (generator.random((40, 4)) < chance).astype(float)

    assert 0.935 < simulate(win_rate_interval, samples, truth=0.6) < 0.965
    # What one gets by counting samples as units.
    assert simulate(lambda s: mean_interval(s.ravel()), samples, truth=0.6) < 0.90


def test_coverage_of_the_mean_with_few_values():
    generator = np.random.default_rng(1)
    for n in (2, 3, 8):
        covered = simulate(mean_interval, lambda n=n: generator.normal(3.0, 2.0, size=n), truth=3.0)
        assert 0.935 < covered < 0.965
    covered = simulate(lambda v: mean_interval(v, level=0.8), lambda: generator.normal(size=5), truth=0.0)
    assert 0.77 < covered < 0.83


def test_coverage_of_wilson():
    generator = np.random.default_rng(2)
    for p, n in ((0.5, 30), (0.9, 40), (0.97, 60)):
        covered = simulate(
            lambda wins, n=n: wilson_interval(wins, n), lambda p=p, n=n: generator.binomial(n, p), p
        )
        assert 0.92 < covered < 0.985


def test_coverage_of_the_bootstrap_for_a_ratio_of_means():
    generator = np.random.default_rng(3)

    def ratio(rows):
        return rows[:, 0].mean() / rows[:, 1].mean()

    def samples():
        best = 1 + generator.random(60)
        return np.stack([0.7 * best + 0.3 * generator.normal(size=60), best], axis=1)

    def interval(rows):
        return bootstrap_interval(rows, statistic=ratio, resamples=200)

    assert 0.91 < simulate(interval, samples, truth=0.7, rounds=400) < 0.98


def test_the_bootstrap_agrees_with_student_on_a_mean_and_with_itself():
    values = np.random.default_rng(4).normal(size=300)
    student, bootstrap = mean_interval(values), bootstrap_interval(values)
    assert bootstrap == pytest.approx(student, abs=0.015)
    assert bootstrap_interval(values) == bootstrap
    assert bootstrap_interval(values, seed=1) != bootstrap


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_interval(np.zeros(0)), r"mean_interval: values of shape \(0,\)"),
        (lambda: mean_interval(np.array([0.1, np.nan])), r"nan at \(1,\); finite values"),
        (lambda: mean_interval(np.ones(3), level=95.0), "level 95.0; 0 < level < 1"),
        (lambda: win_rate_interval(np.array([[0.2], [1.2]])), r"1.2 at \(1, 0\); probabilities"),
        (lambda: win_rate_interval(np.zeros((3, 0))), r"preferences of shape \(3, 0\)"),
        (lambda: bootstrap_interval(np.zeros((0, 2))), r"values of shape \(0, 2\)"),
        (lambda: wilson_interval(11, 10), "11 wins of 10"),
    ],
)
def test_what_cannot_be_averaged_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
