from prefjax.losses import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    nca_pair_loss,
    sppo_hard_loss,
    sppo_loss,
)
from tests.losses.rows import BETA, PAIR, Row

ROWS = {
    "apo_zero": Row(apo_zero_loss, PAIR, BETA, 0.3 / 4),
    "apo_down": Row(apo_down_loss, PAIR, BETA, 0.3 / 2),
    "nca_pair": Row(nca_pair_loss, PAIR, BETA, 0.3),
    "bco_pair": Row(bco_pair_loss, PAIR, {"beta": 0.3, "shift": 0.2}, 0.3),
    "sppo_hard": Row(sppo_hard_loss, PAIR, BETA, None),
    "sppo": Row(sppo_loss, (*PAIR, "preference", "preference"), BETA, None),
}
