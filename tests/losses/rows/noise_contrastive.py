from prefjax.losses import nca_loss
from tests.losses.rows import Row

ROWS = {
    "nca": Row(nca_loss, ("logratio K", "fixed K", "mask K"), {"beta": 0.3, "temperature": 2.0}, 0.3),
}
