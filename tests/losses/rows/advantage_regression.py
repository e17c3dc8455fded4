from prefjax.losses import a_star_po_loss
from tests.losses.rows import BETA, Row

ROWS = {
    "a_star_po": Row(a_star_po_loss, ("logratio", "fixed", "fixed"), BETA, None),
}
