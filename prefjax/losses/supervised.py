"""The loss of imitation: how surprised the policy is by what it is shown."""

from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned


def nll_loss(logps: Float[Array, "*batch T"]) -> Float[Array, "*batch T"]:
    """Negative log-likelihood of every token.

        lossₜ = -log π(yₜ | x, y₍<ₜ₎)

    The average is the caller's, and is what implementations disagree about. `Weighted.tokens(loss, mask)`:
    every token counts once, over the whole optimiser step (TRL's SFT). `Weighted.sequences(loss, mask)`:
    every sequence counts once, and short ones weigh as much as long ones (iterative RPO's term).

    Beside a loss on pairs, of the chosen completions' tokens: it is TRL's loss type `sft` (RPO, MPO), the term
    of CPO and the first one of ORPO. Its weight is a number of tokens, that of a loss on pairs one of pairs,
    so that the two are averaged apart and then added.

    Args:
      logps: log π of each token, in nats; padding may hold anything, it is the average that masks.

    Returns: a loss in nats for each token.
    Raises: nothing.
    Source: maximum likelihood.
    """
    (logps,) = aligned("nll_loss", logps=logps)
    return -logps
