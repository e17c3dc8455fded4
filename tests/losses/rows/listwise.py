import math

from prefjax.losses import (
    all_pairs_loss,
    best_versus_rest_loss,
    lipo_lambda_loss,
    listnet_loss,
    plackett_luce_loss,
)
from tests.losses.rows import Row

SCORED = ("score K", "fixed K", "mask K")
ROWS = {
    "plackett_luce": Row(plackett_luce_loss, ("score K", "mask K"), {}, 3.0),
    "best_versus_rest": Row(best_versus_rest_loss, ("score K", "mask K"), {}, 1.0),
    "listnet": Row(listnet_loss, SCORED, {"temperature": 2.0}, 1.0),
    "all_pairs": Row(all_pairs_loss, SCORED, {"bias": 0.8}, 1.0),
    # Of labels cut at 64, against three others.
    "lipo_lambda": Row(lipo_lambda_loss, SCORED, {}, 2.0**64 * 3 * (1 / math.log(2) - 1 / math.log(5))),
}
