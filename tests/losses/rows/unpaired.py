from prefjax.losses import bco_loss, kto_loss
from tests.losses.rows import Row

ROWS = {
    "kto": Row(
        kto_loss,
        ("logratio", "label"),
        {"beta": 0.3, "kl": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.8},
        1.2 * 0.3 / 4,
    ),
    "bco": Row(bco_loss, ("logratio", "label"), {"beta": 0.3, "shift": 0.2}, 0.3),
}
