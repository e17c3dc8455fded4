"""The losses of imitation: how surprised the policy is by what it is shown."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def nll_loss(logps: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """Negative log-likelihood of every token: supervised fine-tuning (SFT).

        lossₜ = -log π(yₜ | x, y₍<ₜ₎)

    The average is the caller's, and is what implementations disagree about. `Weighted.tokens(loss, mask)`:
    every token counts once, over the whole optimiser step. `Weighted.sequences(loss, mask)`: every sequence counts
    once, and short ones weigh as much as long ones.

    Beside a loss on pairs, of the chosen completions' tokens, its weight is a number of tokens, that of a loss on
    pairs one of pairs, so that the two are averaged apart and then added.

    Args:
      logps: log π of each token, in nats; padding may hold anything, it is the average that masks.

    Returns: a loss in nats for each token.
    Raises: nothing.
    Range: slope 1 everywhere; log-probabilities of -1e4 are fine.
    Optimum: π is the distribution of the data, whatever π₀ was.
    Relatives: `dft_loss` weighs each token by its own probability. Summed over a completion, and up to a constant,
      it is 1/β times the implicit-reward objective of total variation, beside `chi_square_sft_loss` and others.
    Elsewhere: averaged over tokens it is TRL's SFT, its loss type `sft` beside DPO (RPO, MPO), the term of CPO and
      the first one of ORPO; averaged over sequences the term of iterative RPO.
    Source: maximum likelihood.
    """
    (logps,) = aligned("nll_loss", logps=logps)
    return -logps


def dft_loss(logps: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """Dynamic fine-tuning: likelihood that does not insist on what the policy finds absurd.

        lossₜ = -sg(πₜ) log πₜ,   πₜ = π(yₜ | x, y₍<ₜ₎),   sg: no gradient

    Args:
      logps: log π of each token, in nats; padding may hold anything, it is the average that masks.

    Returns: a loss in nats for each token; at most 1/e. Its gradient is not that of the value, but of -πₜ.
    Raises: nothing.
    Range: slope -πₜ, in [-1, 0]: a token of log-probability -20 moves nothing. Log-probabilities of -1e4 are fine.
    Optimum: the mode of the data at every context, and no distribution: the mean gradient is that of the probability
      of being right.
    Relatives: `nll_loss` times π; `reinforce_loss` with advantage 1 for what is shown, had π drawn it.
    Elsewhere: TRL's SFTTrainer with loss type `dft`, averaged by `Weighted.tokens`.
    Source: Wu et al., "On the Generalization of SFT: A Reinforcement Learning Perspective with Reward
      Rectification", 2025, eq. 9 (arXiv:2508.05629).
    """
    (logps,) = aligned("dft_loss", logps=logps)
    return -jax.lax.stop_gradient(jnp.exp(jnp.minimum(logps, 0.0))) * logps
