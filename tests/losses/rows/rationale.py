from prefjax.losses import (
    rationale_dpo_loss,
    rationale_orpo_loss,
    rationale_sigmoid_term,
    rationale_term,
)
from tests.losses.rows import PAIR, Row

ROWS = {
    "rationale_term": Row(rationale_term, ("logp",), {"gamma": 0.1}, 0.1),
    "rationale_sigmoid_term": Row(rationale_sigmoid_term, ("logp",), {"gamma": 0.1}, 0.1),
    "rationale_dpo": Row(rationale_dpo_loss, (*PAIR, "logp"), {"beta": 0.3, "gamma": 0.1}, 0.3),
    "rationale_orpo": Row(rationale_orpo_loss, ("average",) * 3, {"beta": 0.3, "gamma": 0.1}, None),
}
