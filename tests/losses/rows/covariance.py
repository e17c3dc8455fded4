from prefjax.losses import (
    clip_cov_loss,
    clip_cov_selection,
    covariance_threshold,
    kl_cov_loss,
    token_covariances,
)
from tests.losses.rows import CLIP, ON_TOKENS, Row

ROWS = {
    "clip_cov": Row(clip_cov_loss, (*ON_TOKENS, "label T"), CLIP, None, "T"),
    "kl_cov": Row(kl_cov_loss, (*ON_TOKENS, "label T"), {"coef": 0.5}, None, "T"),
}
STATISTICS = (clip_cov_selection, covariance_threshold, token_covariances)
