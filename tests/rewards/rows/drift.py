from prefjax.rewards import drift_distance, drift_time, value_drift
from tests.rewards.rows import Row

TWICE = ("probability S", "probability S")
ROWS = {
    "value_drift": Row(value_drift, TWICE, {}, "S"),
    "drift_distance": Row(drift_distance, TWICE, {}),
    "drift_time": Row(
        drift_time, ("probability T",), {"level": 0.95, "least": 0.02}, gradient=False, absent=True
    ),
}
