from prefjax.losses import gmpo_loss, gspo_loss, gspo_token_loss, luspo_loss
from tests.losses.rows import CLIP, ON_TOKENS, Row

ON_SEQUENCES = ("logp T", "behaviour T", "advantage", "mask T")
ROWS = {
    "gspo": Row(gspo_loss, ON_SEQUENCES, CLIP, None),
    "gspo_token": Row(
        gspo_token_loss,
        (*ON_TOKENS, "mask T"),
        CLIP,
        None,
        "T",
        gradient_met_by="test_policy_gradient.py::test_written_values_and_gradients",
    ),
    "gmpo": Row(gmpo_loss, ON_SEQUENCES, {"epsilon_low": 0.4, "epsilon_high": 0.5}, None),
    "luspo": Row(luspo_loss, ON_SEQUENCES, CLIP, None),
}
