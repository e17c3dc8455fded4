import math

from prefjax.losses import discopop_loss, dpo_loss, exo_pair_loss, hinge_loss, ipo_loss, robust_dpo_loss
from tests.losses.rows import BETA, PAIR, SMOOTH, Row

ROWS = {
    "dpo": Row(dpo_loss, PAIR, BETA, 0.3),
    "cdpo": Row(dpo_loss, PAIR, SMOOTH, 0.3),
    "ipo": Row(ipo_loss, PAIR, BETA, None),
    "hinge": Row(hinge_loss, PAIR, BETA, 0.3),
    "robust": Row(robust_dpo_loss, PAIR, SMOOTH, 0.3 * 0.9 / 0.8),
    # |q(1 - q)(z - c)| is at most 0.224 + c/4.
    "exo_pair": Row(exo_pair_loss, PAIR, SMOOTH, 0.3 * (0.224 + math.log(9) / 4)),
    # A scan of z finds slopes from -1, where the pair is badly wrong, to 0.82 before the hump.
    "discopop": Row(discopop_loss, PAIR, {"beta": 0.3, "temperature": 0.05}, 0.3),
}
