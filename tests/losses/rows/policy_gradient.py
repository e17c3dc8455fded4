from prefjax.losses import cispo_loss, gspo_loss, gspo_token_loss, ppo_clip_loss, reinforce_loss
from tests.losses.rows import CLIP, ON_TOKENS, Row

ROWS = {
    "reinforce": Row(reinforce_loss, ("logp T", "advantage T"), {}, None, "T"),
    "ppo_clip": Row(ppo_clip_loss, ON_TOKENS, CLIP, None, "T"),
    "dual clip": Row(ppo_clip_loss, ON_TOKENS, {**CLIP, "max_ratio": 3.0}, None, "T"),
    "cispo": Row(
        cispo_loss,
        ON_TOKENS,
        {"max_ratio": 1.3, "min_ratio": 0.8},
        None,
        "T",
        gradient_met_by="test_policy_gradient.py::test_written_values_and_gradients",
    ),
    "gspo": Row(gspo_loss, ("logp T", "behaviour T", "advantage", "mask T"), CLIP, None),
    "gspo_token": Row(
        gspo_token_loss,
        (*ON_TOKENS, "mask T"),
        CLIP,
        None,
        "T",
        gradient_met_by="test_policy_gradient.py::test_written_values_and_gradients",
    ),
}
