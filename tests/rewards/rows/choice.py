from prefjax.rewards import (
    bradley_terry_probability,
    davidson_probabilities,
    rao_kupper_probabilities,
    thurstone_probability,
    two_input_probability,
)
from tests.rewards.rows import Row

SCORES = ("score", "score")
ROWS = {
    "bradley_terry": Row(bradley_terry_probability, SCORES, {}),
    "two_input": Row(two_input_probability, SCORES, {}),
    "thurstone": Row(thurstone_probability, (*SCORES, "variance", "variance"), {}),
    "davidson": Row(davidson_probabilities, SCORES, {"tie": 0.5}, "3", each=("tie",)),
    # The sweep halves and quarters settings, and the threshold is at least 1.
    "rao_kupper": Row(rao_kupper_probabilities, SCORES, {"threshold": 6.0}, "3", each=("threshold",)),
}
