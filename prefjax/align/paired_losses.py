"""Losses on preference pairs by the names that TRL gives them, and the words that a loss may ask for.

A loss is called with the words that its signature names, so that another one is another line of `PAIRED_LOSSES`.
Of each completion, as `chosen_…` and `rejected_…`:

    logp, average_logp               log π(y|x); the same divided by the length
    logratio                         log π(y|x) - log π₀(y|x), or log π(y|x) for a loss without a reference
    length                           how many tokens the completion has
    reference_logp                   log π₀(y|x)
    logps, reference_logps, mask     of its tokens, [*pairs T]
    kl                               Σₜ KL(π₀ ‖ π) of the next-token distributions along it
    …                                any other number of a completion that a batch carries beside its tokens

Of the pair: `target_logp`, log π of what is to be imitated, the chosen completion; `mask`, which is 1 for a pair and 0
for a row that only fills a batch; and any number that a batch carries, `offset` or `chosen_win_rate` say, out of the
column of that name. Of the run: `beta`, `label_smoothing`, and the loss's own settings. What is known only of a whole
optimiser step, a mean of margins say, is made by the entry's `statistics`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from prefjax.checks import refuse, require
from prefjax.losses import (
    alphapo_loss,
    aot_loss,
    aot_unpaired_loss,
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    bco_shift,
    beta_dpo_loss,
    beta_dpo_moments,
    cpl_loss,
    cpo_loss,
    discopop_loss,
    dno_loss,
    dno_prct_loss,
    dpo_loss,
    dpop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    iterated_dpo_loss,
    length_regularised_dpo_loss,
    nca_pair_loss,
    odds_ratio_loss,
    odpo_loss,
    robust_dpo_loss,
    simpo_loss,
    slic_loss,
    sppo_hard_loss,
    sppo_loss,
    tdpo1_loss,
    tdpo2_loss,
    unlikelihood_pair_loss,
)
from prefjax.types import Scalar

SIDES = ("chosen", "rejected")
# Words that are not in every batch, and what puts them there.
ADDED_BY = {
    "reference_logp": "Call add_reference before.",
    "reference_logps": "Call add_reference with this loss before.",
    "kl": "Call add_reference with this loss before.",
    "mean_length": "Call add_mean_length before.",
}
# Numbers that only the data can know of a pair, and what stands for them where it does not say: the label itself, of
# which the chosen completion always wins; the offset of a reward that is higher by 1.
FROM_DATA = {"offset": 1.0, "chosen_win_rate": 1.0, "rejected_win_rate": 0.0}
# Where settings make sense, by their docstrings.
LIMITS = {
    "discount": (0.0, 1.0), "bias": (0.0, 1.0), "gamma": (0.0, jnp.inf), "penalty": (0.0, jnp.inf),
    "delta": (0.0, jnp.inf), "likelihood": (0.0, jnp.inf), "min_beta": (0.0, jnp.inf), "temperature": (1e-6, jnp.inf),
    "chosen_win_rate": (0.0, 1.0), "rejected_win_rate": (0.0, 1.0),
}  # fmt: skip
OF_TOKENS = {"logps", "reference_logps", "mask", "kl"}  # what a sum over the completion does not say
# Where π = π₀ these are the same for both policies, or 0, and a loss that reads nothing else has a known value.
KNOWN_AT_START = {"logratio", "logp", "reference_logp", "logps", "reference_logps", "mask", "kl"}


class PairedLoss(NamedTuple):
    """A loss on pairs, and what it asks for beside the arguments that it names.

    Attributes:
      loss: takes any words of the vocabulary above, by name.
      per_token: log-ratios are divided by their completion's length first.
      likelihood: this times -log π of the chosen completion, the mean over all chosen tokens of the step, is added:
        0 for none. It needs `add_mean_length`.
      reference: whether log-ratios are to a reference; without one the batch needs none, and they are
        log-probabilities.
      of_difference: the loss is one of ρ⁺ - ρ⁻ alone, so that the log-ratios of another f-divergence than reverse KL
        may take their place: those are known but for a constant.
      coupled: the loss mixes pairs, as AOT does by its sort, and sees a whole microbatch at a time. How a step was cut
        into microbatches then does show; how it was spread over devices does not.
      statistics: of words of one number a pair, over the whole optimiser step, to more words by name, or to others in
        the place of `beta` or a setting; they have no gradient. See `add_pair_statistics`.
    """

    loss: Callable[..., Float[Array, "*batch"]]
    per_token: bool = False
    likelihood: float = 0.0
    reference: bool = True
    of_difference: bool = False
    coupled: bool = False
    statistics: Callable[..., dict[str, Float[Array, ""]]] | None = None

    @property
    def words(self) -> frozenset[str]:
        """The words of a completion that the loss asks for."""
        asked = inspect.signature(self.loss).parameters
        return frozenset(name.split("_", 1)[1] for name in asked if name.split("_", 1)[0] in SIDES)

    @property
    def columns(self) -> frozenset[str]:
        """Numbers that only the data can know of a pair."""
        asked = inspect.signature(self.loss).parameters
        return frozenset(asked) & frozenset(FROM_DATA)

    @property
    def settings(self) -> frozenset[str]:
        """Numbers of a run that the loss reads, beside β and label smoothing."""
        asked = set(inspect.signature(self.loss).parameters) | {"likelihood"}
        made: set[str] = set()
        statistics = self.statistics
        if statistics is not None:
            asked |= set(inspect.signature(statistics).parameters)
            one = jnp.ones(1)
            given = {"chosen_logratio": one, "rejected_logratio": one, "mask": one, "beta": 1.0}
            made = set(jax.eval_shape(lambda: call_by_name(statistics, **given)))
        not_numbers = {"beta", "label_smoothing", "mask", "target_logp", *made}
        sides = {name for name in asked if name.split("_", 1)[0] in SIDES and name not in FROM_DATA}
        return frozenset(asked - not_numbers - sides)

    @property
    def of_tokens(self) -> frozenset[str]:
        """Those of them that a sum over the completion does not say."""
        return self.words & OF_TOKENS

    @property
    def known_at_start(self) -> bool:
        """Whether the loss has one value, `loss_at_start`, wherever policy = reference."""
        paired = {"logp": "reference_logp", "logps": "reference_logps"}
        return (
            self.reference
            and not self.likelihood
            and self.words <= KNOWN_AT_START
            and not self.columns
            and all(paired[name] in self.words for name in self.words & set(paired))
        )


def orpo_pair_loss(
    chosen_average_logp: Float[Array, "*batch"],
    rejected_average_logp: Float[Array, "*batch"],
    *,
    beta: Scalar,
) -> Float[Array, "*batch"]:
    """β times `odds_ratio_loss`: what ORPO adds to the likelihood of the chosen completion."""
    return beta * odds_ratio_loss(chosen_average_logp, rejected_average_logp)


def cpl_pair_loss(
    chosen_logps: Float[Array, "*batch T"],
    rejected_logps: Float[Array, "*batch T"],
    chosen_mask: Shaped[Array, "*batch T"],
    rejected_mask: Shaped[Array, "*batch T"],
    *,
    beta: Scalar,
    discount: Scalar = 1.0,
    bias: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    """`cpl_loss`, whose temperature is a price of log π, as β is."""
    return cpl_loss(
        chosen_logps,
        rejected_logps,
        chosen_mask,
        rejected_mask,
        temperature=beta,
        discount=discount,
        bias=bias,
    )


def _mean_margin(chosen_logratio, rejected_logratio, mask):
    """M̄ of β-DPO. Its M₀ is a setting here: what is carried from step to step would be part of the state."""
    return {"batch_margin": beta_dpo_moments(chosen_logratio, rejected_logratio, mask).mean}


def _mean_reward(chosen_logratio, rejected_logratio, mask, beta):
    """δ of BCO, of this step alone."""
    both = jnp.concatenate([chosen_logratio, rejected_logratio])
    return {"shift": bco_shift(both, jnp.concatenate([mask, mask]), beta=beta).mean()}


PAIRED_LOSSES: dict[str, PairedLoss] = {
    "sigmoid": PairedLoss(dpo_loss, of_difference=True),
    "sigmoid_norm": PairedLoss(dpo_loss, per_token=True, of_difference=True),
    "ipo": PairedLoss(ipo_loss, per_token=True, of_difference=True),
    "hinge": PairedLoss(hinge_loss, of_difference=True),
    "robust": PairedLoss(robust_dpo_loss, of_difference=True),
    "exo_pair": PairedLoss(exo_pair_loss, of_difference=True),
    "nca_pair": PairedLoss(nca_pair_loss),
    "bco_pair": PairedLoss(bco_pair_loss),
    "apo_zero": PairedLoss(apo_zero_loss),
    "apo_down": PairedLoss(apo_down_loss),
    "sppo_hard": PairedLoss(sppo_hard_loss),
    "discopop": PairedLoss(discopop_loss, of_difference=True),
    "aot": PairedLoss(aot_loss, coupled=True),
    "aot_unpaired": PairedLoss(aot_unpaired_loss, coupled=True),
    # TRL's rpo is ["sigmoid", "sft"] with weights 1 and α.
    "rpo": PairedLoss(dpo_loss, likelihood=1.0, of_difference=True),
    "cpo": PairedLoss(cpo_loss, likelihood=1.0, reference=False),
    "simpo": PairedLoss(partial(simpo_loss, gamma=0.5), reference=False),
    "alphapo": PairedLoss(partial(alphapo_loss, gamma=0.5, alpha=0.25), reference=False),
    "orpo": PairedLoss(orpo_pair_loss, likelihood=1.0, reference=False),
    # β-DPO but for its filter and its running threshold, M₀, which is a setting here: hence another name. Likewise BCO
    # with the mean reward of the step alone, and not of all steps so far, as its shift.
    "dynamic_beta": PairedLoss(partial(beta_dpo_loss, alpha=0.6, threshold=0.0), statistics=_mean_margin),
    "bco_pair_shift": PairedLoss(bco_pair_loss, statistics=_mean_reward),
    # TRL has none of these. Settings are their papers' or, of R-DPO and SLiC, in the middle of what is usual.
    "dpop": PairedLoss(partial(dpop_loss, penalty=5.0)),
    "odpo": PairedLoss(odpo_loss, of_difference=True),
    "length_regularised_dpo": PairedLoss(partial(length_regularised_dpo_loss, alpha=0.05)),
    "iterated_dpo": PairedLoss(iterated_dpo_loss),
    "tdpo1": PairedLoss(tdpo1_loss),
    "tdpo2": PairedLoss(tdpo2_loss),
    "sppo": PairedLoss(sppo_loss),
    "dno": PairedLoss(dno_loss, of_difference=True),
    "dno_prct": PairedLoss(dno_prct_loss, of_difference=True),
    "cpl": PairedLoss(cpl_pair_loss, reference=False),
    "slic": PairedLoss(partial(slic_loss, delta=1.0, alpha=0.1), reference=False),
    "unlikelihood": PairedLoss(unlikelihood_pair_loss, reference=False),
}


def checked_terms(
    paired: PairedLoss,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    link: Callable | None = None,
    **settings: float,
) -> Callable:
    """`paired_terms` with these numbers, once they are known to be arguments of the loss."""
    require(
        paired.loss is not exo_pair_loss or label_smoothing > 0, "exo_pair", f"label_smoothing is {label_smoothing}",
        "more than 0, where the loss is infinite", "Take 1e-3.",
    )  # fmt: skip
    require(
        link is None or paired.of_difference, "paired_objective", "the link of an f-divergence",
        "a loss of ρ⁺ - ρ⁻ alone: it is known but for a constant", "Leave it out, or choose sigmoid.",
    )  # fmt: skip
    check_loss_settings(paired, settings)
    likelihood = settings.pop("likelihood", paired.likelihood)
    numbers: dict[str, Any] = {
        "beta": beta,
        "label_smoothing": label_smoothing,
        "likelihood": likelihood,
        "link": link,
        **settings,
    }
    return partial(paired_terms, paired, **numbers)


def check_loss_settings(paired: PairedLoss, settings: Mapping[str, float]) -> None:
    """Raises: InputError for a setting that the loss does not have, or a number for which it is not defined."""
    for name, value in settings.items():
        require(
            name in paired.settings, "loss settings", f"a setting {name!r}",
            f"one of {', '.join(sorted(paired.settings))}", "Leave it out, or choose another loss.",
        )  # fmt: skip
        low, high = LIMITS.get(name, (-jnp.inf, jnp.inf))
        require(
            low <= value <= high,
            "loss settings",
            f"{name} is {value:g}",
            f"{low:g} to {high:g}",
            "Choose another.",
        )


def paired_terms(
    paired: PairedLoss,
    sides: Mapping[str, Shaped[Array, "..."]],
    weight: Float[Array, "*pairs"],
    *,
    beta: Scalar,
    label_smoothing: Scalar = 0.0,
    words: Mapping[str, Shaped[Array, "..."]] | None = None,
    likelihood: Scalar = 0.0,
    link: Callable | None = None,
    pair_weight: Float[Array, "*pairs"] | None = None,
    **settings: Any,
) -> dict[str, Float[Array, "*pairs"]]:
    """The loss of every pair and what is logged beside it.

    Args:
      sides: words of completions, of (chosen, rejected): `logp` and `length` [*pairs 2], with a reference also
        `reference_logp`, and what else the loss asks for, [*pairs 2] or [*pairs 2 T].
      weight: 0 for a row that only fills a batch; what it holds is not read.
      words: of pairs, [*pairs], or of all, scalars.
      link: `logratio -> score` of an f-divergence, in the place of log-ratios; logged rewards stay β·ρ.
      pair_weight: multiplies the loss of a pair (WPO), not its likelihood term; no gradient flows through it.
    """
    # Here and not after the loss alone: 0 times the slope of a loss at nan is nan.
    pairs = weight.shape
    present = weight.reshape(-1) > 0
    sides = {
        name: _present(present, both.reshape(present.size, *both.shape[len(pairs) :]))
        for name, both in sides.items()
    }
    logp, length = sides["logp"], jnp.maximum(sides["length"], 1.0)  # without tokens divided by 1, not by 0
    logratio = logp - _given(sides, "reference_logp") if paired.reference else logp
    scored = logratio if link is None else link(logratio)
    both = {
        **sides,
        "logratio": scored / length if paired.per_token else scored,
        "length": length,
        "average_logp": logp / length,
    }
    loss = call_by_name(
        paired.loss,
        **{
            "mask": present.astype(jnp.float32),
            "target_logp": logp[:, 0],
            "beta": beta,
            "label_smoothing": label_smoothing,
            **settings,
            **{name: jnp.reshape(word, -1 if jnp.ndim(word) else ()) for name, word in (words or {}).items()},
            **{f"{side}_{name}": word[:, i] for i, side in enumerate(SIDES) for name, word in both.items()},
        },
    )
    if pair_weight is not None:
        loss = loss * jax.lax.stop_gradient(_present(present, pair_weight.reshape(-1)))
    terms = {}
    if not (isinstance(likelihood, int | float) and likelihood == 0):
        terms = {"nll_loss": -logp[:, 0] / jnp.reshape(_given(words or {}, "mean_length"), -1)}
        loss = loss + likelihood * terms["nll_loss"]
    margin = beta * (logratio[:, 0] - logratio[:, 1])
    terms = {
        "logps/chosen": logp[:, 0],
        "logps/rejected": logp[:, 1],
        "rewards/chosen": beta * logratio[:, 0],
        "rewards/rejected": beta * logratio[:, 1],
        "rewards/margins": margin,
        "rewards/accuracies": (margin > 0).astype(jnp.float32),
        **terms,
        "loss": loss,
    }
    return {name: term.reshape(pairs) for name, term in terms.items()}


def _present(present: Bool[Array, " N"], values: Float[Array, "N ..."]) -> Float[Array, "N ..."]:
    return jnp.where(present.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)


def _given(words: Mapping[str, Shaped[Array, "..."]], name: str) -> Shaped[Array, "..."]:
    # Left out in silence this would be another loss.
    if name not in words:
        _refuse_without(name)
    return words[name]


def _refuse_without(name: str):
    bare = name.split("_", 1)[1] if name.split("_", 1)[0] in SIDES else name
    todo = "Add a column of that name to the data." if name in FROM_DATA else "Put it into the batch."
    refuse("paired_objective", f"a batch without {bare}", "this loss reads it", ADDED_BY.get(bare, todo))


def call_by_name(loss: Callable, **vocabulary) -> Any:
    """Calls a loss, or a statistic, with those words of the vocabulary that its equation uses.

    Raises: InputError where it needs one that the vocabulary does not have.
    """
    wanted = inspect.signature(loss).parameters
    for name, parameter in wanted.items():
        if parameter.default is parameter.empty and name not in vocabulary:
            _refuse_without(name)
    return loss(**{name: value for name, value in vocabulary.items() if name in wanted})


def loss_at_start(
    paired: PairedLoss, *, beta: float, label_smoothing: float = 0.0, **settings: float
) -> float:
    """The loss where policy = reference, so that every log-ratio is 0: what the first step must show.

    Raises: InputError for a loss without a reference, or with a likelihood, whose start depends on the data.
    """
    require(
        paired.known_at_start, "loss_at_start", "a loss that depends on log π itself",
        "one of log-ratios alone", "Ask where paired.known_at_start.",
    )  # fmt: skip
    zero = jnp.zeros((1, 2))
    tokens = {"logps": zero[..., None], "reference_logps": zero[..., None], "mask": jnp.ones((1, 2, 1))}
    sides = {"logp": zero, "reference_logp": zero, "kl": zero, "length": zero + 1, **tokens}
    numbers: dict[str, Any] = {"beta": beta, "label_smoothing": label_smoothing, **settings}
    if paired.statistics is not None:
        numbers |= call_by_name(
            paired.statistics,
            chosen_logratio=zero[:, 0],
            rejected_logratio=zero[:, 0],
            mask=jnp.ones(1),
            **numbers,
        )
    return float(paired_terms(paired, sides, jnp.ones(1), **numbers)["loss"][0])
