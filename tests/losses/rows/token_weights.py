from prefjax.losses import ld_dpo_logp, wpo_weights
from tests.losses.rows import Row

ROWS = {
    "ld_dpo_logp": Row(ld_dpo_logp, ("logp T", "mask T", "label"), {"alpha": 0.5}, 1.0),
}
STATISTICS = (wpo_weights,)
