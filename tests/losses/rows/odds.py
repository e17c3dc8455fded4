from prefjax.losses import odds_ratio_loss, orpo_loss
from tests.losses.rows import BETA, Row

ROWS = {
    # d log odds/da is 1/(1 - p), at most 1/eps.
    "odds_ratio": Row(odds_ratio_loss, ("average", "average"), {}, None),
    "orpo": Row(orpo_loss, ("average", "average"), BETA, None),
}
