from prefjax.losses import vpo_term, xpo_loss, xpo_term
from tests.losses.rows import PAIR, Row

ROWS = {
    "xpo": Row(xpo_loss, (*PAIR, "logp"), {"beta": 0.3, "alpha": 0.01}, 0.3),
    "xpo_term": Row(xpo_term, ("logp",), {"alpha": 0.01}, 0.01),
    "vpo_term": Row(vpo_term, ("logratio",), {"beta": 0.3, "alpha": 0.1}, 0.03),
}
