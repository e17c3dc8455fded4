"""Programmed rewards: called as TRL calls them, and whatever they do wrong is said with their name and line."""

import asyncio
import functools
import re
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from prefjax.align.reward_answers import RewardFunction, reward_function
from prefjax.align.reward_files import load_reward_functions
from prefjax.align.reward_functions import TrainerState, columns_of, reward_metrics, score, total_reward
from prefjax.align.time_limit import Late, await_all, call_within
from prefjax.checks import InputError

PROMPTS = ["one", "one", "two", "two"]
COMPLETIONS = ["a", "bb", "", "dddd"]


def rewards_of(call, *, prompts=PROMPTS, completions=COMPLETIONS, columns=None, **settings):
    calls = call if isinstance(call, list) else [call]
    return score([reward_function(c) for c in calls], prompts, completions, columns, **settings)


def written(directory: Path, text: str, name: str = "rewards.py") -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


# What they are given.


def test_every_keyword_that_trl_passes():
    seen = {}

    def remember(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, **columns)
        return [0.0] * len(completions)

    state, extra, metric = TrainerState(3, 10, 0.5), [], []
    rewards_of(
        remember, columns={"solution": ["1", "1", "2", "2"], "prompt": PROMPTS, "completion_ids": [0] * 4},
        completion_ids=[[5], [6, 7], [], [8]], trainer_state=state,
        log_extra=lambda *a: extra.append(a), log_metric=lambda *a: metric.append(a),
    )  # fmt: skip
    seen.pop("log_extra")("solution", ["x"])
    seen.pop("log_metric")("length", 2.0)
    assert seen == {
        "prompts": PROMPTS, "completions": COMPLETIONS, "completion_ids": [[5], [6, 7], [], [8]],
        "solution": ["1", "1", "2", "2"], "trainer_state": state,
    }  # fmt: skip
    assert state.global_step == 3
    assert extra == [("solution", ["x"])]
    assert metric == [("length", 2.0)]


def test_a_conversation_gets_its_completion_as_a_message():
    prompts = [[{"role": "user", "content": "2 + 2?"}], "plain", [{"role": "user", "content": "3?"}]]
    called = [{"role": "assistant", "content": "", "tool_calls": []}, {"role": "tool", "content": "3"}]
    seen = []
    rewards_of(
        lambda completions, **_: seen.extend(completions) or [1.0, 1.0, 1.0],
        prompts=prompts,
        completions=["4", "text", called],
    )
    assert seen == [[{"role": "assistant", "content": "4"}], "text", called]


def test_one_that_takes_no_keywords_gets_those_it_names():
    def brief(completions, solution, trainer_state=None):
        assert trainer_state.global_step == 0
        return [float(c == s) for c, s in zip(completions, solution, strict=True)]

    assert rewards_of(brief, columns={"solution": ["a", "", "", "d"], "other": [0] * 4}).tolist() == [
        [1.0, 0.0, 1.0, 0.0]
    ]


def test_a_column_that_is_not_there():
    def needy(completions, solution, **_):
        return [0.0] * 4

    with pytest.raises(
        InputError, match=r"test_reward_functions.py, line \d+, needy: it needs 'solution'.*answer"
    ):
        rewards_of(needy, columns={"answer": [1] * 4})


def test_columns_of_the_data():
    rows = [
        {"prompt": "p", "label": True, "line": 7, "extras": {"solution": "4", "line": "of a poem"}},
        {"prompt": "q", "label": False, "line": 8, "extras": {"level": 2}},
    ]
    assert columns_of(rows, copies=2) == {
        "label": [True, True, False, False],
        "solution": ["4", "4", None, None],
        "line": ["of a poem", "of a poem", None, None],
        "level": [None, None, 2, 2],
    }
    assert columns_of([]) == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"solution": ["x"]}, "1 values of 'solution'; 4"),
        ({"completions": COMPLETIONS}, "'completions'.*Rename"),
        ({"log_extra": COMPLETIONS}, "'log_extra'.*Rename"),
    ],
)
def test_columns_that_do_not_fit(columns, message):
    with pytest.raises(InputError, match=message):
        rewards_of(lambda completions, **_: [0.0] * 4, columns=columns)


def test_what_a_function_changes_is_its_own_affair():
    prompts = [[{"role": "user", "content": "hi"}]] * 2
    columns = {"tags": [["x"], ["y"]]}

    def vandal(prompts, completions, tags, **columns):
        prompts[0][0]["content"] = completions[0][0]["content"] = "gone"
        tags[0].clear()
        completions.clear()
        return [0.0, 0.0]

    def honest(prompts, completions, tags, **columns):
        assert prompts[0][0]["content"] == "hi"
        assert [c[0]["content"] for c in completions] == ["a", "b"]
        assert tags == [["x"], ["y"]]
        return [1.0, 1.0]

    rewards = rewards_of([vandal, honest], prompts=prompts, completions=["a", "b"], columns=columns)
    assert rewards.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert prompts[0][0]["content"] == "hi"
    assert columns == {"tags": [["x"], ["y"]]}


def test_coroutines_run_together_and_keep_their_loop():
    loops, started = [], threading.Barrier(1)

    def waits(name):
        async def function(completions, **_):
            loops.append(asyncio.get_running_loop())
            started.wait()
            await asyncio.sleep(0.2)
            return [float(name)] * len(completions)

        return function

    class Judge:
        async def __call__(self, completions, **_):
            await asyncio.sleep(0.2)
            return [3.0] * len(completions)

    begun = time.monotonic()
    rewards = rewards_of([waits(1), lambda completions, **_: [2.0] * 4, Judge(), functools.partial(waits(4))])
    assert time.monotonic() - begun < 0.55
    assert rewards[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    rewards_of(waits(1))
    assert len(set(loops)) == 1


# What they answer.


@pytest.mark.parametrize(
    "answer",
    [
        [1, 0.5, True, None],
        (1.0, 0.5, np.float32(1.0), np.nan),
        np.array([1.0, 0.5, 1.0, np.nan]),
        jnp.array([1.0, 0.5, 1.0, jnp.nan], jnp.bfloat16),
        [jnp.float32(1.0), jnp.bfloat16(0.5), np.bool_(True), None],
        (value for value in [1, 0.5, 1, None]),
        np.array([1, 0.5, True, None], object),
    ],
    ids=["list", "tuple", "numpy", "jax", "scalars", "generator", "objects"],
)
def test_what_counts_as_numbers(answer):
    rewards = rewards_of([lambda **_: answer, lambda **_: [0.0] * 4])
    assert rewards.dtype == np.float32
    np.testing.assert_array_equal(rewards[0], np.array([1.0, 0.5, 1.0, np.nan], np.float32))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0, 3.0], "it returned 3 rewards for rows 17, 21; a list of 4"),
        ([], "it returned 0 rewards"),
        (None, "it returned NoneType None"),
        (1.0, "it returned float 1.0"),
        ("high", "it returned str 'high'"),
        ({0: 1.0}, "it returned dict"),
        (np.zeros((4, 1)), r"an array of shape \(4, 1\)"),
        (np.float32(3.0), r"an array of shape \(\)"),
        ([1.0, 2.0, "3.0", 4.0], "its reward for row 21 is str '3.0'"),
        (np.array(["1", "2", "3", "4"]), "its reward for row 17 is str '1'"),
        ([1.0, 2.0, [3.0], 4.0], "its reward for row 21 is list"),
        ([1.0, 1j, 3.0, 4.0], "its reward for row 17 is complex"),
        ([1.0, 2.0, 3.0, float("inf")], "its reward for row 21 is inf; a finite number"),
        (jnp.array([1.0, 2.0, -jnp.inf, 0.0]), "its reward for row 21 is -inf"),
        ([1.0, 2.0, 1e39, 4.0], r"its reward for row 21 is 1e\+39"),
        ([1.0, 2.0, 10**400, 4.0], "its reward for row 21 is 1000"),
    ],
)
def test_what_does_not(answer, message):
    def bad(completions, **_):
        return answer

    with pytest.raises(InputError, match=rf"test_reward_functions.py, line \d+, bad: .*{message}"):
        rewards_of(bad, rows=[17, 17, 21, 21])


def test_a_coroutine_in_disguise():
    async def real(completions):
        return [0.0] * 4

    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(InputError, match=r"a coroutine.*async def"),
    ):
        rewards_of(lambda completions: real(completions))


def test_none_is_nan_and_a_completion_that_nobody_scores_is_named():
    maths = reward_function(lambda **_: [1.0, None, None, 2.0], name="maths", weight=2.0)
    code = reward_function(lambda **_: [0.5, 0.5, None, None], name="code")
    with pytest.warns(
        UserWarning, match=r"Row 21, completion '': no reward function \(maths, code\).* 1 such"
    ):
        rewards = score([maths, code], PROMPTS, COMPLETIONS, rows=[17, 17, 21, 21])
    total = total_reward([maths, code], rewards)
    assert total.dtype == np.float32
    np.testing.assert_array_equal(total, np.array([2.5, 0.5, np.nan, 4.0], np.float32))
    metrics = reward_metrics([maths, code], rewards)
    assert metrics == pytest.approx(
        {
            "rewards/maths/mean": 1.5, "rewards/maths/std": 0.5**0.5,
            "rewards/code/mean": 0.5, "rewards/code/std": 0.0,
            "reward": 7 / 3, "reward_std": np.std([2.5, 0.5, 4.0], ddof=1),
        }
    )  # fmt: skip


def test_a_function_that_judges_none_of_a_batch():
    maths = reward_function(lambda **_: [None] * 4, name="maths")
    code = reward_function(lambda **_: [1.0, 2.0, 3.0, 4.0], name="code")
    with pytest.warns(UserWarning, match="maths: None for every completion") as warned:
        rewards = score([maths, code], PROMPTS, COMPLETIONS)
    assert len(warned) == 1
    assert total_reward([maths, code], rewards).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert "rewards/maths/mean" not in reward_metrics([maths, code], rewards)
    with pytest.warns(UserWarning, match="4 such completions"):
        rewards = score([maths], PROMPTS, COMPLETIONS)
    assert np.isnan(total_reward([maths], rewards)).all()
    assert reward_metrics([maths], rewards) == {}


def test_rows_and_names_that_do_not_fit():
    with pytest.raises(InputError, match="rows: 2 names for 4 completions"):
        rewards_of(lambda **_: [0.0] * 4, rows=[17, 21])
    twins = [reward_function(lambda **_: [0.0], name="twin")] * 2
    with pytest.raises(InputError, match="names twin, twin"):
        reward_metrics(twins, np.zeros((2, 1), np.float32))


def test_a_column_called_line_arrives():
    assert rewards_of(lambda line, **_: line, columns={"line": [1, 2, 3, 4]}).tolist() == [[1, 2, 3, 4]]


def test_an_empty_batch_and_no_functions():
    with warnings.catch_warnings(action="error"):
        assert score([reward_function(lambda **_: [])], [], []).shape == (1, 0)
        assert score([], PROMPTS, COMPLETIONS).shape == (0, 4)


# What they do instead.

MISTAKES = """
    import re, time

    def last(completions):
        return [completion.split()[-1] for completion in completions]

    def accuracy(prompts, completions, **columns):
        words = last(completions)
        return [float(word == "yes") for word in words]

    def leaves(completions, **_):
        raise SystemExit("bye")

    def sleeps(completions, **_):
        time.sleep(1000)

    def spins(completions, **_):
        while True:
            try:
                len(completions)
            except Exception:
                pass

    def backtracks(completions, **_):
        return [bool(re.match(r"(a+)+$", "a" * 40 + "b")) for _ in completions]

    def dawdles(completions, **_):
        for _ in completions:
            time.sleep(1000)
            yield 0.0

    def covers(completions, **_):
        try:
            time.sleep(1000)
        except BaseException:
            return [0.0] * len(completions)

    async def waits(completions, **_):
        import asyncio
        await asyncio.sleep(1000)

    async def blocks(completions, **_):
        time.sleep(3)

    async def breaks(completions, **_):
        return completions[99]
"""


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        # The line where it happened, not where the function begins.
        ("accuracy", 5, r"IndexError: list index out of range \(at `return \[comp.*for rows 17, 21; a list"),
        ("leaves", 12, "SystemExit: bye"),
        ("breaks", 46, "IndexError: list index out of range"),
    ],
)  # fmt: skip
def test_exceptions_are_said_with_the_line(tmp_path, name, line, message):
    path = written(tmp_path, MISTAKES)
    functions = load_reward_functions(f"{path}:{name}")
    with pytest.raises(InputError, match=rf"rewards.py, line {line}, {name}: {message}") as raised:
        score(functions, PROMPTS, COMPLETIONS, rows=[17, 17, 21, 21])
    assert "a list of 4 rewards" in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("sleeps", 15),
        ("spins", None),
        ("backtracks", 25),
        ("dawdles", 29),
        ("covers", 34),
        ("waits", 40),
        ("blocks", 43),
    ],
)
def test_time_outs_are_said_with_the_line(tmp_path, name, line):
    functions = load_reward_functions(f"{written(tmp_path, MISTAKES)}:{name}")
    begun = time.monotonic()
    with pytest.raises(
        InputError, match=rf"line {line or '.*'}, {name}: no answer within 0.3 s.*rows 17, 21.*--rew"
    ):
        score(functions, PROMPTS, COMPLETIONS, rows=[17, 17, 21, 21], timeout=0.3)
    assert time.monotonic() - begun < 3


def test_time_out_away_from_the_main_thread(tmp_path):
    functions = load_reward_functions(f"{written(tmp_path, MISTAKES)}:sleeps")
    raised = []

    def work():
        try:
            score(functions, PROMPTS, COMPLETIONS, timeout=0.3)
        except InputError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert "line 15, sleeps: no answer within 0.3 s" in raised[0]
    assert call_in_thread(lambda: call_within(5.0, lambda: 3)) == 3
    with pytest.raises(KeyError, match="x"):
        call_in_thread(lambda: call_within(5.0, lambda: {}["x"]))


def call_in_thread(call):
    results = []

    def work():
        try:
            results.append((call(), None))
        except Exception as error:
            results.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    if results[0][1] is not None:
        raise results[0][1]
    return results[0][0]


def test_no_limit_and_other_timers():
    import signal

    assert call_within(0, lambda: 1) == 1
    assert await_all([], 1.0) == []
    handler = signal.getsignal(signal.SIGALRM)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(Late):
        call_within(0.1, lambda: time.sleep(10))
    assert signal.getsignal(signal.SIGALRM) is handler
    after, _ = signal.getitimer(signal.ITIMER_REAL)  # of pytest-timeout
    assert (after > 0) == (left > 0)
    assert after <= left


def test_a_function_with_its_own_alarm_works_in_the_main_thread():
    import signal

    def theirs(completions, **_):
        def ring(*_):
            raise TimeoutError

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(10)
        except TimeoutError:
            return [0.0] * len(completions)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    assert rewards_of(theirs, timeout=5.0).tolist() == [[0.0] * 4]
    with pytest.raises(InputError, match=r"main thread.*It uses SIGALRM: score from the main thread"):
        call_in_thread(lambda: rewards_of(theirs, timeout=5.0))


def test_what_nothing_interrupts_ends_the_process(tmp_path):
    written(
        tmp_path,
        """
        def stuck(completions, **_):
            return [sum(range(10**12))]
        """,
    )
    program = f"""if True:
        from prefjax.align.reward_files import load_reward_functions
        from prefjax.align.reward_functions import score
        score(load_reward_functions({str(tmp_path / "rewards.py")!r}), ["p"], ["c"], timeout=0.2)
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert re.search(r'rewards.py", line 3 in stuck', ended.stderr)


def test_printing_is_left_alone(capsys):
    def chatty(completions, **_):
        print("thinking")
        return [0.0] * 4

    rewards_of(chatty)
    assert capsys.readouterr().out == "thinking\n"


# Where they come from.


REWARDS = """
    import functools
    from json import dumps
    import beside

    def accuracy(prompts, completions, solution, **kwargs):
        return [float(c == s) for c, s in zip(completions, solution)]

    def brief(completion_ids, most=2, **kwargs):
        return [float(len(ids) <= most) for ids in completion_ids]

    def extract(text):
        return text.strip()

    def _private(completions, **kwargs):
        return [0.0] * len(completions)

    short = functools.partial(brief, most=beside.MOST)

    class Format:
        def __call__(self, completions, **kwargs):
            return [0.25] * len(completions)

    formatted = Format()
    number = 3
"""


@pytest.fixture
def rewards_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    written(tmp_path, "MOST = 1\n", "beside.py")
    return written(tmp_path, REWARDS)


def test_functions_of_a_file_by_name(rewards_file):
    functions = load_reward_functions(f"{rewards_file}:accuracy, short,formatted", weights=[1.0, 0.5, 2.0])
    assert [f.name for f in functions] == ["accuracy", "short", "formatted"]
    assert [f.line for f in functions] == [6, 9, 21]
    rewards = score(
        functions, PROMPTS, COMPLETIONS, {"solution": ["a"] * 4}, completion_ids=[[1], [1, 2], [], [1]]
    )
    assert rewards.tolist() == [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0], [0.25] * 4]
    assert total_reward(functions, rewards).tolist() == [2.0, 0.5, 1.0, 1.0]


def test_a_whole_file_is_its_own_public_functions_of_completions(rewards_file):
    assert [f.name for f in load_reward_functions(str(rewards_file))] == ["accuracy", "brief", "short"]


def test_modules_and_several_sources(rewards_file, monkeypatch):
    monkeypatch.chdir(rewards_file.parent)
    package = rewards_file.parent / "mine"
    package.mkdir()
    written(package, "def polite(completions, **_): return [1.0] * len(completions)\n", "__init__.py")
    written(package, "def curt(completions, **_): return [2.0] * len(completions)\n", "tone.py")
    functions = load_reward_functions("rewards.py:accuracy,brief,mine.polite,mine.tone:curt")
    assert [f.name for f in functions] == ["accuracy", "brief", "polite", "curt"]
    assert functions[0].where == "rewards.py, line 6, accuracy"
    assert functions[3].where == "mine/tone.py, line 1, curt"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py:f", "no file nowhere.py"),
        ("{file}:missing", "no missing in it; one of accuracy, brief, extract"),
        ("{file}:number", "reward function number: of type int; a function"),
        ("{file}:Format", "reward function Format: a class"),
        ("{file}:accuracy,accuracy", "two functions called accuracy"),
        ("no_such_package.rewards:f", "ModuleNotFoundError.*no_such_package"),
        ("accuracy", "something like rewards.py"),
        ("", "something like rewards.py"),
        ("mine:", "something like rewards.py"),
    ],
)
def test_sources_that_are_wrong(rewards_file, source, message):
    with pytest.raises(InputError, match=message):
        load_reward_functions(source.format(file=rewards_file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(completions:\n    return 1\n", r"rewards.py, line 1: SyntaxError"),
        ("x = 1\ny = x / 0\n", r"rewards.py, line 2: ZeroDivisionError"),
        ("import math_verifier\n", r"rewards.py, line 1: ModuleNotFoundError.*math_verifier.*install"),
        ("import sys\nsys.exit(2)\n", r"rewards.py, line 2: SystemExit"),
        ("def helper(text): return text\n", r"no function with a parameter `completions`"),
    ],
)
def test_files_that_do_not_load(tmp_path, text, message):
    path = tmp_path / "rewards.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_reward_functions(str(path))


def test_weights_that_do_not_fit(rewards_file):
    with pytest.raises(InputError, match=r"--reward-weights: 1 for 2 functions \(accuracy, brief\)"):
        load_reward_functions(f"{rewards_file}:accuracy,brief", weights=[1.0])
    with pytest.raises(InputError, match="weight nan"):
        load_reward_functions(f"{rewards_file}:accuracy", weights=[float("nan")])


def test_a_function_built_in_knows_no_place():
    assert reward_function(len) == RewardFunction(len, "len")
    assert reward_function(functools.partial(len)).where == "len"


@pytest.mark.oracle
def test_one_reward_file_under_trl_and_here(tmp_path):
    import logging

    import torch
    from accelerate import PartialState
    from transformers import TrainerState as TheirState
    from trl import GRPOTrainer
    from trl.rewards import get_repetition_penalty_reward, think_format_reward
    from trl.trainer.utils import get_callable_name

    path = written(
        tmp_path,
        """
        SEEN = []

        def accuracy(prompts, completions, solution, log_extra=None, log_metric=None, trainer_state=None, **kwargs):
            said = [completion[0]["content"].strip() for completion in completions]
            SEEN.append((prompts, completions, solution, sorted(kwargs), trainer_state.global_step, kwargs["level"]))
            log_extra("answer", said)
            log_metric("answered", sum(map(bool, said)) / len(said))
            return [None if wanted == "?" else float(text == wanted) for text, wanted in zip(said, solution)]

        async def length(completion_ids, **kwargs):
            return [-0.1 * len(ids) for ids in completion_ids]
        """,
    )
    rows = [
        {"prompt": [{"role": "user", "content": question}], "solution": solution, "level": level}
        for question, solution, level in (("1 + 1", "2", 1), ("why?", "?", 5))
        for _ in range(2)
    ]
    texts = ["2", "<think>three</think> 3", "because", "<think>hm</think>"]
    ids = [[2], [3, 3, 3], [4], [5, 6, 5, 6]]
    ours = list(load_reward_functions(str(path), weights=[1.0, 2.0]))
    ours += [
        reward_function(think_format_reward),
        reward_function(get_repetition_penalty_reward(2), weight=0.5),
    ]

    extras, metrics = [], []
    PartialState()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    trainer = SimpleNamespace(  # as much of one as the method asks for
        accelerator=SimpleNamespace(device=torch.device("cpu"), is_main_process=False),
        args=SimpleNamespace(report_to=()),
        reward_funcs=[f.call for f in ours],
        reward_func_names=[get_callable_name(f.call) for f in ours],
        reward_processing_classes=[None] * len(ours),
        environments=None,
        async_loop=loop,
        state=TheirState(global_step=7, max_steps=9),
        _log_completion_extra=lambda *said: extras.append(said),
        _log_metric=lambda *said: metrics.append(said),
    )
    prompts = [row["prompt"] for row in rows]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    logging.getLogger("trl").setLevel(logging.ERROR)
    theirs = GRPOTrainer._calculate_rewards(trainer, rows, prompts, completions, ids).T.numpy()
    mine = score(
        ours, prompts, texts, columns_of(rows), completion_ids=ids, trainer_state=TrainerState(7, 9, 0.0),
        log_extra=lambda *said: extras.append(said), log_metric=lambda *said: metrics.append(said),
    )  # fmt: skip
    np.testing.assert_array_equal(mine, theirs)
    assert [f.name for f in ours] == trainer.reward_func_names
    seen = sys.modules[ours[0].call.__module__].SEEN
    assert seen[0] == seen[1]
    assert extras[0] == extras[1]
    assert metrics[0] == metrics[1]
    weights = torch.tensor([f.weight for f in ours])
    np.testing.assert_allclose(
        total_reward(ours, mine), (torch.tensor(theirs.T) * weights).nansum(dim=1).numpy(), rtol=1e-6
    )
