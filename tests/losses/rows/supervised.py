from prefjax.losses import nll_loss
from tests.losses.rows import Row

ROWS = {
    "nll": Row(nll_loss, ("logp T",), {}, 1.0, "T"),
}
