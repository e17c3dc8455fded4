from prefjax.losses import tdpo1_loss, tdpo2_loss
from tests.losses.rows import BETA, PAIR, Row

ROWS = {
    "tdpo1": Row(tdpo1_loss, (*PAIR, "score", "score"), BETA, 0.3),
    # The divergence of the chosen completion moves nothing.
    "tdpo2": Row(tdpo2_loss, (*PAIR, "fixed", "score"), {"beta": 0.3, "alpha": 0.5}, 0.3),
}
