"""Programmed rewards: plain Python functions that score completions, called as TRL calls its `reward_funcs`."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prefjax.align.reward_answers import RewardFunction, blame, checked, is_async, listed, short
from prefjax.align.time_limit import await_all, call_within
from prefjax.checks import require

SHARED = ("trainer_state", "log_extra", "log_metric")
PRIVATE = ("prompt", "completion", "completion_ids")  # columns that functions do not get under these names


class TrainerState(NamedTuple):
    """What reward functions get as `trainer_state`: the fields of transformers' that have a meaning here."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0


def score(
    functions: Sequence[RewardFunction],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    completion_ids: Sequence[Any] | None = None,
    trainer_state: Any = None,
    log_extra: Callable[[str, list], Any] | None = None,
    log_metric: Callable[[str, float], Any] | None = None,
    rows: Sequence[Any] | None = None,
    timeout: int | float = 60.0,
) -> Float[np.ndarray, "F B"]:
    """rewards[f, b]: what function f gives completion b; nan where it gave None.

    Every function is called once with the whole batch, by keyword: `prompts`, `completions`, `completion_ids`,
    `trainer_state`, `log_extra(column, values)`, `log_metric(name, value)`, and every column. One without `**kwargs`
    gets those that it names. Each gets copies, so that none sees what another did to them. Coroutine functions run
    at the same time. What is printed is left alone.

    Args:
      functions: F of them (`load_reward_functions`, `reward_function`).
      prompts: B strings or lists of messages; a prompt is repeated for each of its completions.
      completions: B strings. Beside a prompt of messages a string becomes `[{"role": "assistant", "content": …}]`;
        a list of messages stays as it is.
      columns: the other columns of the data, B values each (`columns_of`).
      completion_ids: B lists of token ids, without padding.
      trainer_state: how far the run is; a `TrainerState` of zeros unless given.
      log_extra, log_metric: take what functions want logged; it is dropped unless given.
      rows: what the data calls each completion's prompt, for messages; its place in the batch unless given.
      timeout: seconds that a call may take, 0 for no limit. `call_within` says what can be interrupted, and how.

    Raises: InputError that names the function, its file and line, and the rows: it raised, took too long, returned
      no list, too few or too many, something not a number or not finite; or it needs a column that is not there.
      A completion that no function scored is named in a warning.
    Source: the protocol of TRL's `GRPOTrainer`, version 1.16 (its documentation, "Using a custom reward function").
    """
    given = _arguments(prompts, completions, columns or {}, completion_ids)
    shared = {
        "trainer_state": TrainerState() if trainer_state is None else trainer_state,
        "log_extra": log_extra or _ignore,
        "log_metric": log_metric or _ignore,
    }
    labels = [str(row) for row in (range(len(completions)) if rows is None else rows)]
    require(
        len(labels) == len(completions), "rows", f"{len(labels)} names for {len(completions)} completions",
        "as many", "Name the prompt of every completion.",
    )  # fmt: skip
    calls = [functools.partial(f.call, **_accepted(f, given, shared)) for f in functions]
    # In the order given, then those that wait for something, together.
    answers: dict[int, Any] = {}
    for i, function in enumerate(functions):
        if not is_async(function.call):
            try:
                answers[i] = call_within(timeout, functools.partial(_answer, calls[i]))
            except (Exception, SystemExit) as error:
                blame(function, error, labels, timeout)
    waiting = [i for i in range(len(functions)) if i not in answers]
    for i, answer in zip(waiting, await_all([calls[i] for i in waiting], timeout), strict=True):
        if isinstance(answer, BaseException):
            blame(functions[i], answer, labels, timeout)
        answers[i] = listed(answer)
    rewards = np.empty((len(functions), len(completions)), np.float32)
    for i, function in enumerate(functions):
        rewards[i] = checked(function, answers[i], labels)
    _warn(functions, rewards, labels, completions)
    return rewards


def total_reward(
    functions: Sequence[RewardFunction], rewards: Float[np.ndarray, "F B"]
) -> Float[np.ndarray, " B"]:
    """Σ_f w_f r_f over the functions that gave a reward; nan where none did."""
    weights = np.array([f.weight for f in functions], np.float32)[:, None]
    summed = np.nansum(rewards * weights, axis=0, dtype=np.float32)
    return np.where(np.isnan(rewards).all(axis=0), np.float32(np.nan), summed)


def reward_metrics(
    functions: Sequence[RewardFunction], rewards: Float[np.ndarray, "F B"]
) -> dict[str, float]:
    """`rewards/{name}/mean`, `rewards/{name}/std`, `reward`, `reward_std` over the completions that have one.

    Deviations divide by n - 1. What is of no completion (a deviation: of fewer than two) is left out.
    """
    names = [f.name for f in functions]
    require(
        len(set(names)) == len(names), "reward functions", f"names {', '.join(names)}", "names that differ",
        "Metrics go by them: reward_function(…, name=…).",
    )  # fmt: skip
    metrics = {}
    parts = [(f"rewards/{f.name}/mean", f"rewards/{f.name}/std", rewards[i]) for i, f in enumerate(functions)]
    for mean, std, values in [*parts, ("reward", "reward_std", total_reward(functions, rewards))]:
        present = values[~np.isnan(values)].astype(np.float64)
        if len(present) >= 1:
            metrics[mean] = float(present.mean())
        if len(present) >= 2:
            metrics[std] = float(present.std(ddof=1))
    return metrics


def columns_of(rows: Sequence[Mapping[str, Any]], *, copies: int = 1) -> dict[str, list]:
    """The columns that reward functions get out of rows of data, each value `copies` times: once a completion.

    All of the rows' columns and extras but prompt, completion and line number; None where a row has no value.
    """
    ours = (*PRIVATE, "line", "extras")
    flat = [{**{k: v for k, v in row.items() if k not in ours}, **row.get("extras", {})} for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat for _ in range(copies)] for name in names}


def _arguments(prompts, completions, columns, completion_ids) -> dict[str, list]:
    """Every argument that has a value for each completion."""
    given = {"prompts": list(prompts), "completions": list(completions)}
    if completion_ids is not None:
        given["completion_ids"] = list(completion_ids)
    for name, values in columns.items():
        require(
            name in PRIVATE or (name not in given and name not in SHARED), "reward functions",
            f"the data has a column {name!r}", "that is an argument of theirs already", "Rename the column.",
        )  # fmt: skip
        if name not in PRIVATE:
            given[name] = list(values)
    for name, values in given.items():
        require(
            len(values) == len(completions), "reward functions", f"{len(values)} values of {name!r}",
            f"{len(completions)}, one for each completion", "Repeat a row for each of its completions.",
        )  # fmt: skip
    given["completions"] = [
        [{"role": "assistant", "content": said}]
        if isinstance(said, str) and not isinstance(asked, str)
        else said
        for asked, said in zip(prompts, completions, strict=True)
    ]
    return given


def _accepted(
    function: RewardFunction, given: Mapping[str, list], shared: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that the function names, or all if it takes any; lists as copies."""
    there = {**given, **shared}
    try:
        parameters = list(inspect.signature(function.call).parameters.values())
    except (TypeError, ValueError):  # native code need not say
        return {**_copy(given), **shared}
    for parameter in parameters:
        optional = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        require(
            optional or parameter.default is not parameter.empty or parameter.name in there,
            function.where, f"it needs {parameter.name!r}", f"there are {', '.join(there)}",
            "Add that column to the data, or give the parameter a default.",
        )  # fmt: skip
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = there.keys() if takes_all else {parameter.name for parameter in parameters}
    return {name: shared[name] if name in shared else _copy(given[name]) for name in there if name in names}


def _copy(value: Any) -> Any:
    # Containers only: strings cannot be changed, and what else a caller passes may not be for copying.
    if isinstance(value, list):
        return [_copy(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _copy(each) for key, each in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def _warn(functions, rewards, labels: list[str], completions) -> None:
    absent = np.isnan(rewards)
    for function, none in zip(functions, absent, strict=True):
        if len(functions) > 1 and none.all() and none.size:
            # The same words each time, which Python prints once.
            words = f"{function.where}: None for every completion of a batch; it counts for none of them."
            warnings.warn(words, stacklevel=3)
    unscored = np.flatnonzero(absent.all(axis=0))
    if functions and len(unscored):
        first = unscored[0]
        warnings.warn(
            f"Row {labels[first]}, completion {short(completions[first])}: no reward function "
            f"({', '.join(f.name for f in functions)}) scored it, so nothing is learned from it; there are "
            f"{len(unscored)} such completions among {len(labels)}.",
            stacklevel=3,
        )


def _answer(call: Callable[[], Any]) -> Any:
    return listed(call())


def _ignore(*_: Any) -> None:
    pass
