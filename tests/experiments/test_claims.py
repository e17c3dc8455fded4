"""The table of claims: what it prints is what it writes."""

import json

import pytest

from experiments.claims import Claim, conclude, every, over_seeds, verdict


def test_claims_come_first_and_a_claim_that_failed_says_so(tmp_path, capsys):
    claims = [
        Claim("up is up", "1.0", True),
        Claim("down is up", "-1.0", False),
        Claim("all is up", "0.1", None),
    ]
    setting = "--quick: 3 seeds, 10 steps"
    text = conclude(
        tmp_path, "A paper", claims, setting=setting, sections={"More": "words"}, data={"seeds": 3}
    )
    assert text == (
        "# A paper\n\n"
        "--quick: 3 seeds, 10 steps.\n\n"
        "| claim      | measured here | verdict      |\n"
        "| ---------- | ------------- | ------------ |\n"
        "| up is up   | 1.0           | held         |\n"
        "| down is up | -1.0          | did not hold |\n"
        "| all is up  | 0.1           | undecided    |\n\n"
        "## More\n\nwords"
    )
    assert capsys.readouterr().out == text + "\n"
    assert (tmp_path / "report.md").read_text() == text + "\n"
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["seeds"] == 3
    assert written["setting"] == setting
    assert [claim["held"] for claim in written["claims"]] == [True, False, None]


def test_an_interval_over_three_seeds_is_students():
    # s.e. of (1, 2, 3) is 1/√3, and t is 4.3027 at two degrees of freedom.
    assert over_seeds([1.0, 2.0, 3.0]) == "2.000 [-0.484, 4.484]"
    assert over_seeds([1.0, 2.0, 3.0], digits=0) == "2 [0, 4]"
    assert over_seeds([1.0, 2.0, 3.0], within=(0, 3)) == "2.000 [0.000, 3.000]"
    assert over_seeds([1.0]) == "no interval"


@pytest.mark.parametrize(
    ("differences", "above", "expected"),
    [
        ([1.0, 1.1, 0.9], 0.0, True),
        ([1.0, 1.1, 0.9], 0.5, True),
        ([1.0, 1.1, 0.9], 1.0, None),
        ([1.0, 1.1, 0.9], 2.0, False),
        ([0.0, 0.0, 0.0], 0.0, False),  # nothing at all is not more
        ([1.0, 2.0, 3.0], 0.0, None),  # from -0.484 on, as above
        ([1.0], 0.0, None),
        ([], 0.0, None),
    ],
)
def test_a_verdict_is_of_the_whole_interval(differences, above, expected):
    assert verdict(differences, above) is expected


def test_of_several_parts_one_that_failed_decides():
    assert every(True, True) is True
    assert every(True, None) is None
    assert every(None, False, True) is False
