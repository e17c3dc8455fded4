"""How sure one may be of a mean: intervals whose unit is the prompt."""

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from prefjax.checks import require


class Interval(NamedTuple):
    """An estimate, the ends of its interval, and the number of independent units behind it."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Float[np.ndarray, " n"], *, level: float = 0.95) -> Interval:
    """Student's interval for the mean of independent values.

        v̄ ± t · s/√n,   s² = Σ(vᵢ - v̄)²/(n - 1),   t the (1 + level)/2 quantile of Student's t, n - 1 degrees

    Exact for normal values, and close for bounded ones from a few dozen on. One value, or none, says nothing
    about its spread: the ends are then -∞ and ∞.

    Args:
      values: one number for each independent unit, a prompt or a seed. Several samples of one prompt are not
        independent: average them first, as `win_rate_interval` does.
      level: the probability with which the interval holds the true mean.

    Raises: InputError when there is no value, one is not finite, or `level` is not in (0, 1).
    Source: Student, "The Probable Error of a Mean", 1908.
    """
    values = _finite("mean_interval", values, dimensions=1)
    _check_level("mean_interval", level)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = student_quantile((1 + level) / 2, n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def win_rate_interval(preferences: Float[np.ndarray, "prompts ..."], *, level: float = 0.95) -> Interval:
    """The win rate of one policy over another, with the prompt as its unit.

        v_x = mean over the samples of P(y ≻ y'|x),   then `mean_interval` of v over prompts x

    Samples of one prompt share its difficulty. Counted as units of their own they would make the interval
    too narrow, in the limit by √(samples a prompt).

    Args:
      preferences: P(y ≻ y'|x), or 1, 1/2, 0 for win, tie, loss; one row a prompt, then any axes of
        samples.
      level: the probability with which the interval holds the win rate over the distribution of prompts.

    Returns: the interval, cut to [0, 1], which holds any win rate.
    Raises: InputError when there is no prompt or no sample, or a preference is not in [0, 1].
    Source: Miller, "Adding Error Bars to Evals", 2024, clustered standard errors (arXiv:2411.00640); equal
      clusters make them those of the cluster means.
    """
    preferences = np.asarray(preferences, np.float64)
    where = "win_rate_interval"
    require(
        preferences.ndim >= 1 and preferences.size > 0, where, f"preferences of shape {preferences.shape}",
        "[prompts, samples, …], none of them 0", "Judge at least one pair.",
    )  # fmt: skip
    good = (preferences >= 0) & (preferences <= 1)  # false for nan
    worst = np.unravel_index(int(np.argmin(good)), good.shape)
    require(
        bool(good.all()), where, f"{preferences[worst]} at {tuple(map(int, worst))}",
        "probabilities in [0, 1]", "Pass P(y ≻ y'), not a score.",
    )  # fmt: skip
    mean, low, high, n = mean_interval(preferences.reshape(len(preferences), -1).mean(axis=1), level=level)
    return Interval(mean, max(low, 0.0), min(high, 1.0), n)


def bootstrap_interval(
    values: Float[np.ndarray, "n ..."],
    *,
    statistic: Callable[[Float[np.ndarray, "n ..."]], float] = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The percentile bootstrap, for a statistic without a formula (a ratio of means, a median).

        low, high = the (1 ∓ level)/2 quantiles of statistic(rows drawn with replacement)

    Slightly narrow for few rows: with 10 it holds the mean about 90 times in 100 rather than 95.

    Args:
      values: one row for each independent unit; rows are drawn whole.
      statistic: of an array like `values`; its value on the data is reported as `mean`.
      level: the probability with which the interval is to hold the true value.
      resamples: how many times to draw.
      seed: the same seed, the same interval.

    Raises: InputError when there is no row, a value is not finite, or `level` is not in (0, 1).
    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    values = _finite("bootstrap_interval", values)
    _check_level("bootstrap_interval", level)
    generator = np.random.default_rng(seed)
    n = len(values)
    drawn = np.array([statistic(values[generator.integers(0, n, n)]) for _ in range(resamples)], np.float64)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(values)), float(low), float(high), n)


def wilson_interval(wins: float | int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval for a proportion: `wins` of `n` independent trials.

        (p̂ + z²/2n ± z √(p̂(1 - p̂)/n + z²/4n²)) / (1 + z²/n),   p̂ = wins/n, z the normal quantile

    Sensible also at 0 and n wins, where the normal interval has no width.

    Args:
      wins: of one sample a prompt; a tie may count 1/2.
      n: the number of trials.
      level: the probability with which the interval is to hold the true proportion.

    Raises: InputError unless 0 <= wins <= n and n >= 1.
    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    _check_level("wilson_interval", level)
    require(
        n >= 1 and 0 <= wins <= n, "wilson_interval", f"{wins} wins of {n}", "0 <= wins <= n, n >= 1",
        "Count trials before wins.",
    )  # fmt: skip
    p, z = wins / n, NormalDist().inv_cdf((1 + level) / 2)
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    # Rounding alone can pass the ends.
    return Interval(p, max(low, 0.0), min(high, 1.0), n)


@functools.lru_cache
def student_quantile(probability: float, degrees: int) -> float:
    """t with P(T <= t) = `probability` >= 1/2 for Student's T, to seven digits and mostly ten.

    With t = √ν tan θ the density becomes proportional to cos^(ν-1) θ on [0, π/2], smooth at any ν; the
    integral is by Gauss and Legendre, its inverse by bisection.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    log_constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2

    def above_half(angle: float) -> float:
        at = angle * (nodes + 1) / 2
        return float(weights @ np.exp(log_constant + (degrees - 1) * np.log(np.cos(at)))) * angle / 2

    # Beyond this angle the density is nothing, and the quadrature would lose sight of where it is.
    low, high = 0.0, min(math.pi / 2, 12 / math.sqrt(degrees))
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if above_half(middle) < probability - 1 / 2 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _finite(function: str, values, dimensions: int | None = None) -> Float[np.ndarray, "n ..."]:
    values = np.asarray(values, np.float64)
    fits = values.ndim == dimensions if dimensions else values.ndim >= 1
    require(
        fits and values.size > 0, function, f"values of shape {values.shape}",
        "at least one row, and one for each unit",
        "Reduce the other axes first." if values.size else "Measure something first.",
    )  # fmt: skip
    good = np.isfinite(values)
    worst = np.unravel_index(int(np.argmin(good)), good.shape)
    require(
        bool(good.all()), function, f"{values[worst]} at {tuple(map(int, worst))}", "finite values",
        "Drop the unit, or find out what went wrong there.",
    )  # fmt: skip
    return values


def _check_level(function: str, level: float) -> None:
    require(0 < level < 1, function, f"level {level}", "0 < level < 1", "0.95 is usual.")
