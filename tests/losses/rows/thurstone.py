from prefjax.losses import thurstone_loss
from tests.losses.rows import Row

TENSORS = ("score", "score", "variance", "variance")
ROWS = {"thurstone": Row(thurstone_loss, TENSORS, {"target": 0.8}, None, each=("target",))}
