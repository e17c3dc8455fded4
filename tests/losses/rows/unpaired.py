from prefjax.losses import apo_zero_unpaired_loss, kto_kl, kto_loss
from tests.losses.rows import Row

WEIGHTS = {"desirable_weight": 1.2, "undesirable_weight": 0.8}
ROWS = {
    "kto": Row(kto_loss, ("logratio", "label"), {"beta": 0.3, "kl": 0.5, **WEIGHTS}, 1.2 * 0.3 / 4),
    "apo_zero_unpaired": Row(
        apo_zero_unpaired_loss, ("logratio", "label"), {"beta": 0.3, **WEIGHTS}, 1.2 * 0.3 / 4
    ),
}
STATISTICS = (kto_kl,)
