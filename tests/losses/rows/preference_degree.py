from prefjax.losses import preference_degree_loss
from tests.losses.rows import Row

ROWS = {
    "preference_degree": Row(preference_degree_loss, ("score K", "label"), {}, 1.0),
}
