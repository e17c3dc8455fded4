from prefjax.losses import bco_importance_weight, bco_loss, bco_shift
from tests.losses.rows import Row

ROWS = {
    "bco": Row(bco_loss, ("logratio", "label"), {"beta": 0.3, "shift": 0.2}, 0.3),
    "bco_importance_weight": Row(bco_importance_weight, ("score",), {"minimum": 0.5, "maximum": 10.0}, 10.0),
}
STATISTICS = (bco_shift,)
