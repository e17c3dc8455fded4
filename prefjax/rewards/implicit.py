"""The reward that a policy stands for: what it would have to be paid to be as far from its reference as it is."""

from jaxtyping import Array, Float

from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def implicit_reward(logratio: Float[Array, "*batch"], *, beta: Scalar) -> Float[Array, "*batch"]:
    """The implicit reward of a completion, up to a constant of the prompt.

        r̂ = β(log π(y|x) - log π₀(y|x)) = r(x, y) - β log Z(x)   where π is best under r - β KL(π‖π₀)

    Args:
      logratio: ρ = log π(y|x) - log π₀(y|x), summed over tokens, in nats.
      beta: β > 0, in reward per nat away from π₀.

    Returns: r̂ for each completion; 0 where π = π₀. Rewards of completions of different prompts do not compare.
    Raises: nothing.
    Range: everywhere; slope β.
    Relatives: its difference between two completions is `implicit_margin`.
    Elsewhere: TRL's `rewards/chosen` and `rewards/rejected`, for every loss: also with another divergence, where it is
      not the reward, and for losses of averages.
    Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 5 (arXiv:2305.18290).
    """
    (logratio,) = aligned("implicit_reward", logratio=logratio)
    return beta * logratio


def implicit_margin(
    chosen_logratio: Float[Array, "*batch"], rejected_logratio: Float[Array, "*batch"], *, beta: Scalar
) -> Float[Array, "*batch"]:
    """By how much the implicit reward prefers the chosen completion.

        β(ρ⁺ - ρ⁻),   ρ = log π(y|x) - log π₀(y|x)

    Args:
      chosen_logratio: ρ⁺ of the preferred completion, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      beta: β > 0, in reward per nat away from π₀.

    Returns: a margin for each pair, in units of reward. Whether it is positive is `ranking_accuracy` of the two
      rewards.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope β.
    Relatives: the argument of the sigmoid in `dpo_loss`: that is -log σ of it.
    Elsewhere: TRL's `rewards/margins`, and `rewards/accuracies` is whether it is above 0 (a tie counts as wrong).
    Source: Rafailov et al., "Direct Preference Optimization", 2023, eq. 6 (arXiv:2305.18290).
    """
    chosen_logratio, rejected_logratio = aligned(
        "implicit_margin", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return beta * (chosen_logratio - rejected_logratio)
