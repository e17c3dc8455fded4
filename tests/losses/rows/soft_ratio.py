from prefjax.losses import sapo_loss, vespo_loss
from tests.losses.rows import ON_TOKENS, Row

ROWS = {
    # Advantages go to 2; the steepest point for τ = 1 is ρ = 2.06, with slope 1.5747.
    "sapo": Row(
        sapo_loss, ON_TOKENS, {"temperature_positive": 1.0, "temperature_negative": 1.05}, 2 * 1.5747, "T"
    ),
    "vespo": Row(
        vespo_loss,
        ("logp T", "behaviour T", "advantage", "mask T"),
        {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0},
        2 * 1.2416,
        "T",
        gradient_met_by="test_policy_gradient.py::test_written_values_and_gradients",
    ),
}
