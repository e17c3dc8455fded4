"""The table of claims: what it prints is what it writes."""

import json

from experiments.claims import Claim, conclude, over_seeds


def test_claims_come_first_and_a_claim_that_failed_says_so(tmp_path, capsys):
    claims = [Claim("up is up", "1.0", True), Claim("down is up", "-1.0", False)]
    text = conclude(tmp_path, "A paper", claims, sections={"More": "words"}, data={"seeds": 3})
    assert text == (
        "# A paper\n\n"
        "| claim      | measured here | verdict      |\n"
        "| ---------- | ------------- | ------------ |\n"
        "| up is up   | 1.0           | held         |\n"
        "| down is up | -1.0          | did not hold |\n\n"
        "## More\n\nwords"
    )
    assert capsys.readouterr().out == text + "\n"
    assert (tmp_path / "report.md").read_text() == text + "\n"
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["seeds"] == 3
    assert [claim["held"] for claim in written["claims"]] == [True, False]


def test_an_interval_over_three_seeds_is_students():
    # s.e. of (1, 2, 3) is 1/√3, and t is 4.3027 at two degrees of freedom.
    assert over_seeds([1.0, 2.0, 3.0]) == "2.000 [-0.484, 4.484]"
    assert over_seeds([1.0, 2.0, 3.0], digits=0) == "2 [-0, 4]"
