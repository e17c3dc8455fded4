from prefjax.losses import alphapo_loss, cpo_loss, simpo_loss, slic_loss, tpo_loss
from tests.losses.rows import SMOOTH, Row

ROWS = {
    "cpo": Row(cpo_loss, ("logp", "logp"), SMOOTH, 0.3),
    "simpo": Row(simpo_loss, ("average", "average"), {**SMOOTH, "gamma": 0.5}, 0.3),
    # Up to β e^80.
    "alphapo": Row(alphapo_loss, ("average", "average"), {**SMOOTH, "gamma": 0.5, "alpha": 0.25}, None),
    "slic": Row(slic_loss, ("logp", "logp", "logp"), {"delta": 1.5, "alpha": 0.4}, 1.0),
    "tpo": Row(tpo_loss, ("logp", "logp", "logp"), {**SMOOTH, "alpha": 0.7}, 0.7),
}
