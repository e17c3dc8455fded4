from prefjax.rewards import preference_strength, soft_label, strength_deviation, weakest_pairs
from tests.rewards.rows import Row

BOTH = ("score M", "score M")
ROWS = {
    "preference_strength": Row(preference_strength, BOTH, {}),
    "strength_deviation": Row(strength_deviation, BOTH, {}),
    "weakest_pairs": Row(weakest_pairs, ("score N",), {"fraction": 0.4}, "N", gradient=False, dtype="bool"),
    "soft_label": Row(soft_label, ("score",), {"temperature": 2.0}),
}
