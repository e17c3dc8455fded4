from prefjax.rewards import implicit_margin, implicit_reward
from tests.rewards.rows import Row

ROWS = {
    "implicit_reward": Row(implicit_reward, ("score",), {"beta": 0.3}),
    "implicit_margin": Row(implicit_margin, ("score", "score"), {"beta": 0.3}),
}
