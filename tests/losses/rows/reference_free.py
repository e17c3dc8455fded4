from prefjax.losses import cpo_loss, odds_ratio_loss, orpo_loss, simpo_loss
from tests.losses.rows import BETA, SMOOTH, Row

ROWS = {
    "cpo": Row(cpo_loss, ("logp", "logp"), SMOOTH, 0.3),
    "simpo": Row(simpo_loss, ("average", "average"), {**SMOOTH, "gamma": 0.5}, 0.3),
    # d log odds/da is 1/(1 - p), at most 1/eps.
    "odds_ratio": Row(odds_ratio_loss, ("average", "average"), {}, None),
    "orpo": Row(orpo_loss, ("average", "average"), BETA, None),
}
