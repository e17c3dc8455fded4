from prefjax.losses import cispo_loss, ppo_clip_loss, reinforce_loss
from tests.losses.rows import CLIP, ON_TOKENS, Row

ROWS = {
    "reinforce": Row(reinforce_loss, ("logp T", "advantage T"), {}, 2.0, "T"),
    "ppo_clip": Row(ppo_clip_loss, ON_TOKENS, CLIP, None, "T"),
    "dual clip": Row(ppo_clip_loss, ON_TOKENS, {**CLIP, "max_ratio": 3.0}, 6.0, "T"),
    "cispo": Row(
        cispo_loss,
        ON_TOKENS,
        {"max_ratio": 1.3, "min_ratio": 0.8},
        2.6,
        "T",
        gradient_met_by="test_policy_gradient.py::test_written_values_and_gradients",
    ),
}
