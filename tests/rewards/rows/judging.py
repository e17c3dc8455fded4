from prefjax.rewards import strength_advantages, two_order_strengths, verdict_reward
from tests.rewards.rows import Row

ROWS = {
    "verdict": Row(verdict_reward, ("score", "score"), {"same_side": 0.5}, gradient=False),
    "two_order": Row(two_order_strengths, ("score G G",), {}, "G G"),
    "strength_advantages": Row(strength_advantages, ("score G G",), {"epsilon": 1e-6}, "G"),
}
