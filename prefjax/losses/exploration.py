"""Terms that make a policy leave what it knows, or stay there, and the loss of XPO."""

from jaxtyping import Array, Float

from prefjax.losses.preference import dpo_loss
from prefjax.rewards.arrays import aligned
from prefjax.types import Scalar


def xpo_term(sample_logp: Float[Array, "*batch"], *, alpha: Scalar) -> Float[Array, "*batch"]:
    """The optimism of XPO: what the reference writes becomes less likely, what nobody has tried more so.

        α log π(ỹ|x),   ỹ ~ π₀(·|x)

    A sum over tokens, so about 1e-4 a token is much.

    Args:
      sample_logp: log π(ỹ|x) under the policy of a completion that the *reference* sampled, summed over its
        tokens, in nats.
      alpha: α >= 0; not multiplied by β. TRL has 1e-5.

    Returns: a term for each sample, added to a loss on pairs.
    Raises: nothing.
    Range: everywhere; slope α. Unbounded below.
    Optimum: none by itself; beside `dpo_loss`, a finite one for small α where labels disagree on every pair of answers.
    Relatives: `vpo_term` with α there times its β equal to α here, up to a constant.
    Source: Xie et al., "Exploratory Preference Optimization", 2024, algorithm 1 (arXiv:2405.21046).
    """
    (sample_logp,) = aligned("xpo_term", sample_logp=sample_logp)
    return alpha * sample_logp


def xpo_loss(
    chosen_logratio: Float[Array, "*batch"],
    rejected_logratio: Float[Array, "*batch"],
    sample_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
    alpha: Scalar,
) -> Float[Array, "*batch"]:
    """Exploratory preference optimisation: online DPO, and optimism.

        loss = -log σ(β(ρ⁺ - ρ⁻)) + α log π(ỹ|x),   ρ = log π(y|x) - log π₀(y|x)

    A pair is one sample of the policy and one of the reference, ỹ, in the order that the judge says; a tie goes
    to the policy's in TRL. Over other losses on pairs: add `xpo_term` to them.

    Args:
      chosen_logratio: ρ⁺ of the preferred one of the two, summed over its tokens, in nats.
      rejected_logratio: ρ⁻ of the other one.
      sample_logp: log π(ỹ|x) under the policy of the one that the reference sampled.
      beta: β > 0, in reward per nat away from π₀.
      alpha: α >= 0, not multiplied by β.

    Returns: a loss in nats for each pair; log 2 + α log π₀(ỹ|x) where π = π₀.
    Raises: InputError where the shapes differ.
    Range: everywhere; slope at most β in the log-ratios, α in log π(ỹ|x).
    Optimum: for small α near that of DPO, where every answer is compared and labels disagree; none where an answer
      outside the pairs can take the mass, or α is large. Online, with α falling, that of DPO.
    Relatives: with α = 0 `dpo_loss`; otherwise that plus `xpo_term`.
    Elsewhere: TRL's XPO; its α may be a list, one an epoch.
    Source: Xie et al., "Exploratory Preference Optimization", 2024, algorithm 1 (arXiv:2405.21046).
    """
    chosen_logratio, rejected_logratio, sample_logp = aligned(
        "xpo_loss",
        chosen_logratio=chosen_logratio,
        rejected_logratio=rejected_logratio,
        sample_logp=sample_logp,
    )
    return dpo_loss(chosen_logratio, rejected_logratio, beta=beta) + xpo_term(sample_logp, alpha=alpha)


def vpo_term(
    sample_logratio: Float[Array, "*batch"], *, beta: Scalar, alpha: Scalar
) -> Float[Array, "*batch"]:
    """The value that VPO adds to maximum likelihood: optimism for α > 0, pessimism for α < 0.

        αβ (log π(ỹ|x) - log π₀(ỹ|x)),   ỹ ~ π_cal(·|x)

    For the policy that is best under a reward of mean zero over π_cal, the mean of this term is -α times the
    best value. Online (α > 0) what π_cal writes becomes less likely; offline (α < 0) more likely, which anchors the
    policy to the data.

    Args:
      sample_logratio: log π(ỹ|x) - log π₀(ỹ|x) of a sample of the calibration policy, summed over its tokens, in
        nats. Online a fixed policy like π₀; offline the one that wrote the data.
      beta: β > 0, that of the loss on pairs.
      alpha: α; the paper's α and the sign together. Of means: the paper sums over pairs, so its α is N times this.

    Returns: a term for each sample. Its mean is added to that of a loss on pairs, of which there may be another
      number.
    Raises: nothing.
    Range: everywhere; slope |α|β. For α > 0 unbounded below.
    Optimum: with `dpo_loss`, for α < 0 a finite one even where labels never disagree; for α > 0 a
      finite one only while α is small, every answer is compared and labels disagree; it drifts otherwise.
    Relatives: `xpo_term` for α > 0 and samples of π₀, up to a constant. For α < 0 and chosen completions it is the
      likelihood term of `iterated_dpo_loss`, of sums, up to a constant.
    Source: Cen et al., "Value-Incentivized Preference Optimization", 2024 (arXiv:2405.19320); the closed form
      of the value is derived.
    """
    (sample_logratio,) = aligned("vpo_term", sample_logratio=sample_logratio)
    return alpha * beta * sample_logratio
