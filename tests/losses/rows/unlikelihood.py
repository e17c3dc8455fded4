from prefjax.losses import unlikelihood_loss, unlikelihood_pair_loss
from tests.losses.rows import Row

ROWS = {
    # p/(1 - p), at most 1/eps.
    "unlikelihood": Row(unlikelihood_loss, ("average T",), {}, None, "T"),
    "unlikelihood_pair": Row(
        unlikelihood_pair_loss, ("logp T", "average T", "mask T", "mask T"), {"alpha": 0.5}, None
    ),
}
