from prefjax.rewards import debiased_objectives, gated_reward, ridge_heads, verbosity_penalties
from tests.rewards.rows import Row

ROWS = {
    "ridge": Row(ridge_heads, ("feature N H", "score N K", "mask N K"), {"penalty": 0.5}, "K H"),
    "verbosity_penalties": Row(
        verbosity_penalties, ("score N K", "score N"), {"threshold": 0.03}, "K", gradient=False
    ),
    "debiased": Row(debiased_objectives, ("score K", "score", "probability K"), {}, "K"),
    "gated": Row(gated_reward, ("score K", "score K"), {"temperature": 10.0, "scale": 2.0}),
}
