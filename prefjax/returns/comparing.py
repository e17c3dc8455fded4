"""What group baselines are made of: rewards less their mean, where some rewards are missing and all may be equal."""

import jax.numpy as jnp

from prefjax.checks import require


def centred(rewards):
    """Rᵢ - R̄, exactly 0 where rewards are equal or nan; and which are no nan."""
    rewards = wide(rewards)
    valid = ~jnp.isnan(rewards)
    rewards = jnp.where(valid, rewards, 0.0)
    count = jnp.maximum(jnp.sum(valid, axis=-1, keepdims=True), 1)
    difference = rewards - jnp.sum(rewards, axis=-1, keepdims=True) / count
    # The mean of equal numbers is off by a rounding error, which a small ε would divide into a signal.
    most = jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    least = jnp.min(jnp.where(valid, rewards, jnp.inf), axis=-1, keepdims=True, initial=jnp.inf)
    return jnp.where(valid & (most > least), difference, 0.0), valid


def variance(differences, count, ddof):
    """In a second pass over what is centred already: a difference of squares would cancel."""
    degrees = count - ddof
    squares = jnp.sum(differences**2, axis=-1, keepdims=True)
    return jnp.where(degrees > 0, squares / jnp.where(degrees > 0, degrees, 1), 0.0)


def over(differences, scale):
    """0/0 is 0: with ε = 0, rewards that are all equal."""
    return differences / jnp.where(scale == 0, 1.0, scale)


def root(square):
    """√, with gradient 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def wide(array):
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))


def same_shape(function, **arrays):
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    got = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
    require(len(set(shapes.values())) == 1, function, got, "one shape for all", "Index or reshape first.")
