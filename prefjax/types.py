"""Records that cross rooms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

Scalar = int | float | Shaped[Array, ""]


class Weighted(NamedTuple):
    """A sum and the weight it carries, kept apart until everything has been summed.

        mean = Σ wᵢ vᵢ / Σ wᵢ

    Two `Weighted` of parts add, leaf by leaf, to the `Weighted` of the whole, so that how a batch was
    padded, cut into microbatches or spread over devices cannot show. The constructors are the averages
    that the field uses; each states its equation.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @classmethod
    def of(cls, values: Float[Array, "..."], weights: Float[Array, "..."] | None = None) -> "Weighted":
        """Every value counts once: Σ wᵢ vᵢ over Σ wᵢ, with w = 1 unless given.

        A value of weight 0 is absent: it may even be nan, as the loss of a row that only pads a batch can be.
        """
        values = jnp.asarray(values, jnp.float32)
        weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights, jnp.float32)
        if weights.shape != values.shape:
            raise ValueError(
                f"Weighted.of: weights have shape {weights.shape}, values {values.shape}; they must agree."
            )
        return cls(jnp.sum(jnp.where(weights == 0, 0.0, values * weights)), jnp.sum(weights))

    @classmethod
    def tokens(cls, values: Float[Array, "*batch T"], mask: Shaped[Array, "*batch T"]) -> "Weighted":
        """Every token counts once: Σᵢₜ mᵢₜ vᵢₜ over Σᵢₜ mᵢₜ (DAPO, SFT). Long sequences weigh more."""
        return cls.of(values, mask.astype(jnp.float32))

    @classmethod
    def sequences(cls, values: Float[Array, "*batch T"], mask: Shaped[Array, "*batch T"]) -> "Weighted":
        """Every sequence counts once: Σᵢ (Σₜ mᵢₜ vᵢₜ / Σₜ mᵢₜ) over the number of sequences (GRPO).

        A sequence without tokens is absent.
        """
        weights = mask.astype(jnp.float32)
        length = jnp.sum(weights, axis=-1)
        total = jnp.sum(jnp.where(weights == 0, 0.0, values * weights), axis=-1)
        return cls.of(total / jnp.maximum(length, 1.0), (length > 0).astype(jnp.float32))

    @classmethod
    def constant(
        cls, values: Float[Array, "*batch T"], mask: Shaped[Array, "*batch T"], length: Scalar
    ) -> "Weighted":
        """Every sequence is divided by one constant: Σᵢₜ mᵢₜ vᵢₜ over (number of sequences · length) (Dr. GRPO)."""
        weights = mask.astype(jnp.float32)
        present = jnp.sum((jnp.sum(weights, axis=-1) > 0).astype(jnp.float32))
        return cls(jnp.sum(jnp.where(weights == 0, 0.0, values * weights)), present * length)

    def mean(self) -> Float[Array, ""]:
        """The one division. Nothing at all (weight 0) has mean 0."""
        return jnp.where(self.weight == 0, 0.0, self.total / jnp.where(self.weight == 0, 1.0, self.weight))


def is_weighted(node: object) -> bool:
    """For `jax.tree.map(…, is_leaf=is_weighted)`: a `Weighted` is taken whole."""
    return isinstance(node, Weighted)


def mean_of(tree):
    """The same tree with every `Weighted` divided."""
    return jax.tree.map(lambda w: w.mean(), tree, is_leaf=is_weighted)
