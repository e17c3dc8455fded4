"""One reward from many objectives: heads for each, the length taken out of them, a gate that weighs them by prompt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from prefjax.checks import refuse
from prefjax.rewards.arrays import aligned
from prefjax.rewards.correlation import rank_correlation
from prefjax.types import Scalar

# The grid of the released code.
PENALTIES = (0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, *(0.05 * i for i in range(3, 20)))


def ridge_heads(
    hidden: Float[Array, "*batch N H"],
    ratings: Float[Array, "*batch N K"],
    mask: Shaped[Array, "*batch N K"],
    *,
    penalty: Scalar,
) -> Float[Array, "*batch K H"]:
    """K linear heads on frozen states, each fitted at once to the ratings that there are.

        wₖ = (Σᵢ mᵢₖ hᵢhᵢᵀ + aI)⁻¹ Σᵢ mᵢₖ yᵢₖ hᵢ

    Args:
      hidden: hᵢ, the state of N completions at their last token. There is no intercept.
      ratings: yᵢₖ by K objectives, of about 0 to 1; may hold anything, nan too, where there is none.
      mask: 1 where there is a rating.
      penalty: a > 0.

    Returns: the heads; scores are `hidden @ heads.T`.
    Raises: InputError where the shapes disagree.
    Range: as exact as float32 allows the normal equations: with few ratings and a small penalty use float64.
    Relatives: the optimum of `losses.rating_loss` plus a‖w‖².
    Source: Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
      (ArmoRM), 2024, stage 1 (arXiv:2406.12845).
    """
    ratings, mask = aligned("ridge_heads", ratings=ratings, mask=mask)
    (hidden,) = aligned("ridge_heads", hidden=hidden)
    if hidden.shape[:-1] != ratings.shape[:-1]:
        refuse(
            "ridge_heads", f"hidden has shape {hidden.shape}, ratings has shape {ratings.shape}",
            "states and ratings of the same completions: […, N, H] and […, N, K]", "Index or reshape first.",
        )  # fmt: skip
    present = mask != 0
    weights = present.astype(hidden.dtype)
    # Sums in full precision also where matrix units would round: the solution magnifies errors.
    gram = jnp.einsum("...nk,...nh,...ng->...khg", weights, hidden, hidden, precision="highest")
    towards = jnp.einsum("...nk,...nh->...kh", jnp.where(present, ratings, 0.0), hidden, precision="highest")
    identity = jnp.broadcast_to(jnp.eye(hidden.shape[-1], dtype=hidden.dtype), gram.shape)
    factor = jnp.linalg.cholesky(gram + penalty * identity)
    half = jax.lax.linalg.triangular_solve(factor, towards[..., None], left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[..., 0]


def verbosity_penalties(
    objectives: Float[Array, "*batch N K"], verbosity: Float[Array, "*batch N"], *, threshold: Scalar = 0.03
) -> Float[Array, "*batch K"]:
    """How much of verbosity to subtract from each objective until they no longer rise together.

        λₖ = the least λ of {0, .01, .025, .05, .075, .1, .125, .15, .2, …, .95} with ρ(rₖ - λ v, v) ≤ threshold, else 1

    Args:
      objectives: rₖ of N reference completions.
      verbosity: v of the same ones: the objective of that name, or their length on its scale.
      threshold: the rank correlation that is small enough.

    Returns: λₖ. Of verbosity itself it is 1, which takes it out.
    Raises: InputError where the shapes disagree.
    Range: between 0 and 1, without gradient.
    Relatives: `rank_correlation` is the ρ; `debiased_objectives` applies λ.
    Elsewhere: the paper asks for correlation 0, the released code for 0.03 as here.
    Source: Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
      (ArmoRM), 2024, section 3 (arXiv:2406.12845); the grid is that of the code.
    """
    (objectives,) = aligned("verbosity_penalties", objectives=objectives)
    (verbosity,) = aligned("verbosity_penalties", verbosity=verbosity)
    _same_batch("verbosity_penalties", objectives, verbosity)
    each = jnp.swapaxes(objectives, -1, -2)[None]
    repeated = jnp.broadcast_to(verbosity[None, ..., None, :], each.shape)
    grid = jnp.asarray(PENALTIES, objectives.dtype)
    left = each - grid.reshape(-1, *[1] * (each.ndim - 1)) * repeated
    fine = rank_correlation(left, jnp.broadcast_to(repeated, left.shape)) <= threshold
    # What is left of v itself is v, however small, until nothing is.
    fine = fine & ~jnp.all(each == repeated, axis=-1)
    return jnp.where(jnp.any(fine, axis=0), jnp.take(grid, jnp.argmax(fine, axis=0)), 1.0)


def debiased_objectives(
    objectives: Float[Array, "*batch K"],
    verbosity: Float[Array, "*batch"],
    penalties: Float[Array, "*batch K"],
) -> Float[Array, "*batch K"]:
    """Objectives less their share of verbosity.

        r'ₖ = rₖ - λₖ v

    Args:
      objectives: rₖ of a completion.
      verbosity: v of the same one.
      penalties: λₖ from `verbosity_penalties`, a row for each completion: `jnp.broadcast_to` shares one row. Where λ is
        1 and the objective is v, nothing is left of it.

    Returns: objectives on their scale.
    Raises: InputError where the shapes disagree.
    Range: linear.
    Elsewhere: the released training of the gate leaves this out; the paper and the released model have it.
    Source: Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
      (ArmoRM), 2024, section 3 (arXiv:2406.12845).
    """
    objectives, penalties = aligned("debiased_objectives", objectives=objectives, penalties=penalties)
    (verbosity,) = aligned("debiased_objectives", verbosity=verbosity)
    _same_batch("debiased_objectives", objectives, verbosity)
    return objectives - penalties * verbosity[..., None]


def gated_reward(
    objectives: Float[Array, "*batch K"],
    gate_logits: Float[Array, "*batch K"],
    *,
    temperature: Scalar = 10.0,
    scale: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """A mixture of objectives whose weights are read from the prompt.

        R = c Σₖ gₖ rₖ,   g = softmax(logits/τ)

    Args:
      objectives: rₖ of a completion, debiased.
      gate_logits: of a network that sees the prompt alone.
      temperature: τ > 0; the released code's 10 starts the gate near uniform.
      scale: c, learned: it starts at 1 in the code; the paper's β, at 100, is the same number in the loss.

    Returns: a reward for each completion; `losses.bradley_terry_loss` of two trains the gate.
    Raises: InputError where the shapes differ.
    Range: between the least and the largest objective, times c.
    Relatives: equal logits: `mean_reward` of the objectives.
    Source: Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts"
      (ArmoRM), 2024, stage 2 (arXiv:2406.12845).
    """
    objectives, gate_logits = aligned("gated_reward", objectives=objectives, gate_logits=gate_logits)
    gate = jax.nn.softmax(gate_logits / temperature, axis=-1)
    return scale * jnp.sum(gate * objectives, axis=-1)


def _same_batch(function, objectives, verbosity):
    if objectives.ndim == 0 or objectives.shape[:-1] != verbosity.shape:
        refuse(
            function, f"objectives has shape {objectives.shape}, verbosity has shape {verbosity.shape}",
            "the objectives and the verbosity of the same completions: […, K] and […]", "Index or reshape first.",
        )  # fmt: skip
