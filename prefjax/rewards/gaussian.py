"""The logarithm of the normal distribution function, whose gradient is right far out as well."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def log_normal_cdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The logarithm of the normal distribution function: the probit of a random-utility model.

        log Φ(x),   d/dx log Φ(x) = φ(x)/Φ(x) = √(2/π) / erfcx(-x/√2)

    Args:
      x: how many standard deviations above the mean.

    Returns: log Φ, at most 0; log 1/2 at 0, about -x²/2 at very negative x.
    Raises: nothing.
    Range: value and gradient are finite for |x| up to 1e19, where x² overflows. The slope lies between 0 and
      max(0, -x) + 0.8. (`jax.scipy.special.log_ndtr` of jax 0.10 has this value and, in float32 from x = -1000 on,
      another gradient: 2981 in place of 10000 at x = -10000.)
    Relatives: `log_sigmoid`, the same of the logistic distribution.
    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 7.1 and 26.2.
    """
    (x,) = aligned("log_normal_cdf", x=x)
    return _log_cdf(x)


@jax.custom_jvp
def _log_cdf(x):
    negative = jnp.minimum(x, 0.0)
    below = jnp.log(jax.scipy.special.erfcx(-negative * 2**-0.5) / 2) - negative**2 / 2
    above = jnp.log1p(-jax.scipy.special.erfc(jnp.maximum(x, 0.0) * 2**-0.5) / 2)
    return jnp.where(x < 0, below, above)


@_log_cdf.defjvp
def _log_cdf_slope(primals, tangents):
    (x,), (tangent,) = primals, tangents
    # φ/Φ. On the right, where erfcx overflows, Φ is between 1/2 and 1.
    negative, positive = jnp.minimum(x, 0.0), jnp.maximum(x, 0.0)
    below = (2 / jnp.pi) ** 0.5 / jax.scipy.special.erfcx(-negative * 2**-0.5)
    density = jnp.exp(-(positive**2) / 2) * (2 * jnp.pi) ** -0.5
    above = density / (1 - jax.scipy.special.erfc(positive * 2**-0.5) / 2)
    return _log_cdf(x), jnp.where(x < 0, below, above) * tangent
