from prefjax.losses import (
    bradley_terry_loss,
    centring_term,
    noise_corrected_bradley_terry_loss,
    preference_model_loss,
    score_l2_term,
)
from tests.losses.rows import Row

SCORES = ("score", "score")
ROWS = {
    "bradley_terry": Row(
        bradley_terry_loss,
        SCORES,
        {"margin": 0.5, "label_smoothing": 0.1},
        0.9,
        each=("margin", "label_smoothing"),
    ),
    # (√.9 - √.1)/(√.9 + √.1)
    "noise_corrected_bradley_terry": Row(
        noise_corrected_bradley_terry_loss,
        SCORES,
        {"flip_probability": 0.1},
        0.5,
        each=("flip_probability",),
    ),
    "centring": Row(centring_term, SCORES, {}, None),
    "score_l2": Row(score_l2_term, SCORES, {}, None),
    "preference_model": Row(preference_model_loss, SCORES, {"target": 0.8}, 0.5, each=("target",)),
}
