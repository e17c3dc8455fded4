from prefjax.rewards import (
    counted_preference,
    cycle_probability,
    expected_utility,
    normalised_utilities,
    preference_confidence,
)
from tests.rewards.rows import Row

ROWS = {
    "counted_preference": Row(counted_preference, ("variance", "variance", "count"), {}),
    "normalised_utilities": Row(
        normalised_utilities, ("score N", "variance N"), {"ddof": 1.0}, ("N", "N"), absent=True
    ),
    "cycle_probability": Row(cycle_probability, ("probability",) * 3, {}),
    "preference_confidence": Row(preference_confidence, ("probability",), {}),
    "expected_utility": Row(expected_utility, ("score N", "probability N"), {}),
}
