from prefjax.losses import dpop_loss, iterated_dpo_loss, length_regularised_dpo_loss, odpo_loss
from tests.losses.rows import PAIR, Row

ROWS = {
    "odpo": Row(odpo_loss, PAIR, {"beta": 0.3, "offset": 0.2}, 0.3, each=("offset",)),
    "length_regularised_dpo": Row(
        length_regularised_dpo_loss, (*PAIR, "label", "label"), {"beta": 0.3, "alpha": 0.05}, 0.3
    ),
    "dpop": Row(dpop_loss, PAIR, {"beta": 0.3, "penalty": 5.0}, 0.3 * (1 + 5)),
    "iterated_dpo": Row(iterated_dpo_loss, (*PAIR, "average"), {"beta": 0.3, "alpha": 0.5}, 0.5),
}
