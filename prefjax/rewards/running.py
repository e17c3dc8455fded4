"""What all rewards of a training so far were like: a state that a checkpoint can hold and devices can share."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


class RunningRewards(NamedTuple):
    """Number, mean, sum of squared distances to it, and extremes of all rewards so far."""

    number: Float[Array, "*batch"]
    mean: Float[Array, "*batch"]
    squares: Float[Array, "*batch"]
    lowest: Float[Array, "*batch"]
    highest: Float[Array, "*batch"]

    def deviation(self) -> Float[Array, "*batch"]:
        """s = (squares/count)^1/2, of the population; 0 before there are two rewards."""
        some = self.squares > 0
        ratio = jnp.where(some, self.squares, 1.0) / jnp.maximum(self.number, 1.0)
        return jnp.where(some, jnp.sqrt(ratio), 0.0)


def running_rewards(rewards: Float[Array, "*batch N"]) -> RunningRewards:
    """The state after a first batch; of an empty one, the state before any.

        n, r̄ = 1/n Σᵢ rᵢ, Σᵢ (rᵢ - r̄)², minᵢ rᵢ, maxᵢ rᵢ

    Args:
      rewards: of the whole optimiser step, on the last axis; nan is left out.

    Returns: `RunningRewards`; the extremes of nothing are inf and -inf.
    Raises: nothing.
    Range: finite where the squares are, to about 1e18.
    Relatives: `merged_running_rewards` joins two of them: the whole is the same however it is cut. The state of
      `standardised_rewards`, `clipped_rewards` and `min_max_rewards`.
    Source: Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products", 1962.
    """
    (rewards,) = aligned("running_rewards", rewards=rewards)
    present = ~jnp.isnan(rewards)
    count = jnp.sum(present, axis=-1).astype(rewards.dtype)
    mean = jnp.sum(jnp.where(present, rewards, 0.0), axis=-1) / jnp.maximum(count, 1.0)
    squares = jnp.sum(jnp.where(present, rewards - mean[..., None], 0.0) ** 2, axis=-1)
    lowest = jnp.min(jnp.where(present, rewards, jnp.inf), axis=-1, initial=jnp.inf)
    highest = jnp.max(jnp.where(present, rewards, -jnp.inf), axis=-1, initial=-jnp.inf)
    return RunningRewards(count, mean, squares, lowest, highest)


def merged_running_rewards(one: RunningRewards, other: RunningRewards) -> RunningRewards:
    """The state of two disjoint parts together.

        n = n₁ + n₂,   r̄ = r̄₁ + (r̄₂ - r̄₁) n₂/n,   S = S₁ + S₂ + (r̄₂ - r̄₁)² n₁ n₂/n

    `merged_running_rewards(state, running_rewards(batch))` is a step of training.

    Args:
      one: a state.
      other: another one.

    Returns: `RunningRewards` of both.
    Raises: InputError where the shapes differ.
    Range: as `running_rewards`; no difference of large squares is taken.
    Relatives: `running_rewards` of both parts concatenated.
    Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    names = {
        f"{name}.{field}": x
        for name, s in (("one", one), ("other", other))
        for field, x in s._asdict().items()
    }
    wide = aligned("merged_running_rewards", **names)
    one, other = RunningRewards(*wide[:5]), RunningRewards(*wide[5:])
    count = one.number + other.number
    share = other.number / jnp.maximum(count, 1.0)
    apart = other.mean - one.mean
    return RunningRewards(
        count,
        one.mean + apart * share,
        one.squares + other.squares + apart**2 * one.number * share,
        jnp.minimum(one.lowest, other.lowest),
        jnp.maximum(one.highest, other.highest),
    )
