from prefjax.losses import cpl_loss
from tests.losses.rows import Row

ROWS = {
    "cpl": Row(
        cpl_loss,
        ("logp T", "logp T", "mask T", "mask T"),
        {"temperature": 0.3, "discount": 0.9, "bias": 0.5},
        0.3,
    ),
}
