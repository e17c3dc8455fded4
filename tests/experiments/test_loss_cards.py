"""The cards in docs/ are what the docstrings and the functions say today."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.loss_cards import every_loss, index, page, read_docstring
from experiments.loss_curves import curve, shown, slope
from prefjax import losses
from prefjax.checks import InputError
from prefjax.losses import dpo_loss, hinge_loss, ipo_loss, nash_md_loss, plackett_luce_loss

CARDS = Path(__file__).parents[2] / "docs" / "losses"
EVERY = every_loss()


def test_there_is_a_card_and_a_picture_for_every_public_loss_and_for_nothing_else():
    names = {loss.__name__ for loss in EVERY}
    public = {name for name, value in vars(losses).items() if inspect.isfunction(value)}
    assert names <= public
    assert {name for name in public if name.endswith(("_loss", "_term"))} <= names
    assert {path.stem for path in CARDS.glob("*.md")} == names | {"README"}
    assert {path.stem for path in (CARDS / "figures").glob("*.png")} == names


def loosened(text: str) -> str:
    """Numbers to three digits: the fourth of a float32 sum is the machine's."""
    return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", lambda m: f"{float(m[0]):.3g}", text)


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.__name__)
def test_a_card_is_up_to_date(loss):
    """When this fails: `python -m experiments.loss_cards`."""
    assert loosened(page(loss)) == loosened((CARDS / f"{loss.__name__}.md").read_text(encoding="utf-8"))


def test_the_index_is_up_to_date():
    assert loosened(index()) == loosened((CARDS / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: loss.__name__)
def test_a_docstring_has_what_a_card_needs(loss):
    doc = read_docstring(loss)
    assert doc.equation, "an equation, indented by four"
    assert {"Args", "Returns", "Raises", "Range", "Optimum", "Relatives", "Source"} <= set(doc.sections)


def test_curves_and_slopes_are_those_of_the_function():
    seen = shown(dpo_loss)
    ((_, tensors),) = seen.cases
    at = curve(dpo_loss, seen, tensors, np.array([1.5]))
    np.testing.assert_allclose(at.value, 0.62095705, rtol=1e-6)  # ρ⁺ = 1, ρ⁻ = -1/2, β = 0.1
    np.testing.assert_allclose(at.gradients["chosen_logratio"], -0.04625702, rtol=1e-5)
    np.testing.assert_allclose(at.gradients["rejected_logratio"], 0.04625702, rtol=1e-5)
    assert (slope(dpo_loss), slope(hinge_loss), slope(ipo_loss)) == (
        "at most 0.1",
        "at most 0.1",
        "without bound",
    )
    # Of a list the score that is varied, not the sum over scores, which is 0.
    assert slope(plackett_luce_loss) == "at most 1"
    assert [label for label, _ in shown(nash_md_loss).cases] == ["preference = 1", "preference = 0"]


def test_an_argument_that_it_does_not_know_is_named():
    def strange_loss(chosen_logratio, oracle):
        """No."""

    with pytest.raises(InputError, match=r"strange_loss: arguments oracle"):
        shown(strange_loss)
