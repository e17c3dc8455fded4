from prefjax.losses import plackett_luce_loss
from tests.losses.rows import Row

ROWS = {
    "plackett_luce": Row(plackett_luce_loss, ("score K", "mask K"), {}, 3.0),
}
