from prefjax.losses import ordinal_loss, rating_loss
from tests.losses.rows import Row

ROWS = {
    "ordinal": Row(ordinal_loss, ("score", "threshold K", "label"), {}, None),
    "rating": Row(rating_loss, ("score K", "score K", "mask K"), {}, None, "K"),
}
