from prefjax.losses import nash_md_loss
from tests.losses.rows import BETA, Row

ROWS = {
    "nash_md": Row(
        nash_md_loss,
        ("logp", "fixed", "preference"),
        BETA,
        None,
        gradient_met_by="test_nash.py::test_the_mean_gradient_is_the_exact_one",
    ),
}
