from prefjax.losses import (
    beta_dpo_filter_logits,
    beta_dpo_loss,
    beta_dpo_moments,
    beta_dpo_running_moments,
)
from tests.losses.rows import PAIR, Row

ROWS = {
    "beta_dpo": Row(
        beta_dpo_loss,
        PAIR,
        {"beta": 0.3, "alpha": 0.6, "batch_margin": 1.5, "threshold": 0.5, "min_beta": 1e-3},
        0.3 * (1 + 0.6),
    ),
}
STATISTICS = (beta_dpo_filter_logits, beta_dpo_moments, beta_dpo_running_moments)
