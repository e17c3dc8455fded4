from prefjax.losses import aot_loss, aot_unpaired_loss
from tests.losses.rows import SMOOTH, Row

ROWS = {
    "aot": Row(aot_loss, ("logp N",) * 4 + ("mask N",), SMOOTH, 0.3, "N"),
    "aot_unpaired": Row(aot_unpaired_loss, ("logratio N", "logratio N", "mask N"), SMOOTH, 0.3, "N"),
}
