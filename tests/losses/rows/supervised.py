from prefjax.losses import dft_loss, nll_loss
from tests.losses.rows import Row

ROWS = {
    "nll": Row(nll_loss, ("logp T",), {}, 1.0, "T"),
    "dft": Row(
        dft_loss,
        ("logp T",),
        {},
        1.0,
        "T",
        gradient_met_by="test_supervised.py::test_the_gradient_of_dft_is_that_of_the_probability",
    ),
}
