from prefjax.rewards import calibrated_softmax, fitted_temperature
from tests.rewards.rows import Row

ROWS = {
    "calibrated_softmax": Row(calibrated_softmax, ("score A",), {"temperature": 2.0}, "A"),
    "fitted_temperature": Row(
        fitted_temperature, ("score N A", "label N"), {"lowest": 1e-3, "highest": 1e3}, gradient=False
    ),
}
