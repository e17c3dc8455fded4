from prefjax.losses import (
    adapted_entropy_coef,
    adapted_kl_coef,
    entropy_bonus,
    entropy_threshold,
    high_entropy_mask,
)
from tests.losses.rows import Row

ROWS = {
    "entropy_bonus": Row(entropy_bonus, ("score T",), {"coef": 0.01}, 0.01, "T"),
}
STATISTICS = (adapted_entropy_coef, adapted_kl_coef, entropy_threshold, high_entropy_mask)
