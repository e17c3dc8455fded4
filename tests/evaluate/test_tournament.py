"""Tournaments: every completion against every other, and judges that cannot be believed."""

import numpy as np
import pytest

from prefjax.checks import InputError
from prefjax.evaluate import cross_preferences, tournament

PROMPTS = ["a", "bb"]
OURS = [["x", "xxx", "xx"], ["y", "", "yy"]]
THEIRS = [["u", "uuuu"], ["vvv", "v"]]


def by_length(prompts, completions, others):
    """Depends on all three, so that no two may change places; longer is better."""
    return np.array(
        [
            0.5 + (len(y) - len(z)) / 10 + len(x) / 100
            for x, y, z in zip(prompts, completions, others, strict=True)
        ]
    )


def test_every_completion_meets_every_other_of_its_prompt():
    got = cross_preferences(by_length, PROMPTS, OURS, THEIRS)
    assert got.shape == (2, 3, 2)
    for x, prompt in enumerate(PROMPTS):
        for k, own in enumerate(OURS[x]):
            for n, other in enumerate(THEIRS[x]):
                assert got[x, k, n] == by_length([prompt], [own], [other])[0]


def test_the_judge_is_asked_once_and_with_lists_of_texts():
    calls = []

    def judge(*columns):
        calls.append(columns)
        return [0.5] * len(columns[0])

    cross_preferences(judge, PROMPTS, OURS, THEIRS)
    ((prompts, own, others),) = calls
    assert prompts == ["a"] * 6 + ["bb"] * 6
    assert own[:6] == ["x", "x", "xxx", "xxx", "xx", "xx"]
    assert others[:6] == ["u", "uuuu"] * 3


def test_a_tournament_has_both_orders_of_every_pair_and_k_may_differ():
    policies = {"ours": OURS, "theirs": THEIRS, "one": [["w"], ["w"]]}
    table = tournament(by_length, PROMPTS, policies)
    assert set(table) == {(a, b) for a in policies for b in policies if a != b}
    for (row, column), preferred in table.items():
        assert preferred.shape == (2,)
        np.testing.assert_allclose(preferred + table[column, row], 1)
    for row, column in (("ours", "theirs"), ("ours", "one"), ("theirs", "one")):
        want = [
            np.mean([by_length([p], [y], [z])[0] for y in policies[row][x] for z in policies[column][x]])
            for x, p in enumerate(PROMPTS)
        ]
        np.testing.assert_allclose(table[row, column], want)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda n: [0.5] * (n - 1), "shape (11,)"),
        (lambda n: np.full((n, 1), 0.5), "shape (12, 1)"),
        (lambda n: 0.5, "shape ()"),
        (lambda n: [0.5] * 7 + [float("nan")] + [0.5] * (n - 8), "nan for row 7"),
        (lambda n: [0.5] * 2 + [1.5] * (n - 2), "1.5 for row 2"),
        (lambda n: [-0.25] + [0.5] * (n - 1), "-0.25 for row 0"),
    ],
)
def test_a_judge_that_gives_no_probabilities_is_refused(answer, message):
    with pytest.raises(InputError) as error:
        cross_preferences(lambda prompts, *_: answer(len(prompts)), PROMPTS, OURS, THEIRS)
    assert message in str(error.value)


def test_certain_judges_are_believed():
    got = cross_preferences(lambda prompts, *_: np.ones(len(prompts), int), PROMPTS, OURS, THEIRS)
    assert (got == 1).all()


@pytest.mark.parametrize("others", [THEIRS[:1], [*THEIRS, ["w", "w"]]])
def test_a_policy_must_answer_every_prompt(others):
    with pytest.raises(ValueError, match=r"argument|prompts"):
        cross_preferences(by_length, PROMPTS, OURS, others)


@pytest.mark.parametrize("ragged", [[["x", "xx"], ["y", "", "yy"]], [["x", "xx", "x"], ["y"]]])
def test_a_policy_must_answer_every_prompt_equally_often(ragged):
    with pytest.raises(InputError):
        cross_preferences(by_length, PROMPTS, ragged, THEIRS)


def test_ragged_answers_are_not_taken_for_those_of_another_prompt():
    # 2 + 3 + 1 completions are as many as 2 of each of 3 prompts.
    with pytest.raises(InputError):
        cross_preferences(by_length, ["a", "b", "c"], [["x", "x"], ["y", "y", "y"], ["z"]], [["u"]] * 3)


def test_no_prompt_at_all_is_refused():
    with pytest.raises(InputError):
        cross_preferences(by_length, [], [], [])
