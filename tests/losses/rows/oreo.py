from prefjax.losses import oreo_policy_loss, oreo_value_loss, step_sums
from tests.losses.rows import BETA, Row

ROWS = {
    "oreo_policy": Row(
        oreo_policy_loss,
        ("logratio T", "fixed T", "fixed T", "mask T"),
        BETA,
        None,
        "T",
        gradient_met_by="test_oreo.py::test_written_values_and_gradients",
    ),
    "oreo_value": Row(oreo_value_loss, ("score T", "fixed T", "fixed T", "mask T"), BETA, None, "T"),
}
STATISTICS = (step_sums,)
