from prefjax.rewards import (
    clipped_rewards,
    kl_shaped_rewards,
    length_penalised_rewards,
    min_max_rewards,
    standardised_rewards,
)
from tests.rewards.rows import Row

LIMITS = {"lowest": -1.0, "highest": 1.5}
ROWS = {
    "kl_shaped": Row(
        kl_shaped_rewards, ("score", "logp T", "logp T", "mask T"), {"beta": 0.1}, "T", gradient=False
    ),
    "standardised": Row(
        standardised_rewards, ("score",), {"mean": 0.5, "deviation": 2.0}, each=("mean", "deviation")
    ),
    "min_max": Row(min_max_rewards, ("score",), LIMITS, each=tuple(LIMITS)),
    "clipped": Row(clipped_rewards, ("score",), LIMITS, each=tuple(LIMITS)),
    "length_penalised": Row(length_penalised_rewards, ("score", "count"), {"free": 2.0, "price": 0.01}),
}
