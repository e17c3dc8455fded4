from prefjax.losses import value_loss
from tests.losses.rows import Row

ROWS = {
    "value": Row(value_loss, ("score T", "fixed T", "fixed T"), {"epsilon": 0.5}, None, "T"),
    "value, no clip": Row(value_loss, ("score T", "fixed T", "fixed T"), {}, None, "T"),
}
