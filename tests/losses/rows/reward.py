from prefjax.losses import bradley_terry_loss, preference_model_loss
from tests.losses.rows import Row

ROWS = {
    "bradley_terry": Row(
        bradley_terry_loss,
        ("score", "score"),
        {"margin": 0.5, "label_smoothing": 0.1},
        1.0,
        each=("margin",),
    ),
    "preference_model": Row(
        preference_model_loss, ("score", "score"), {"target": 0.8}, 0.5, each=("target",)
    ),
}
