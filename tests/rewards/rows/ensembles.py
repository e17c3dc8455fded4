from prefjax.rewards import mean_reward, uncertainty_weighted_reward, worst_case_reward
from tests.rewards.rows import Row

ROWS = {
    "mean": Row(mean_reward, ("score M",), {}),
    "worst_case": Row(worst_case_reward, ("score M",), {}),
    "uncertainty_weighted": Row(uncertainty_weighted_reward, ("score M",), {"coefficient": 0.5, "ddof": 1.0}),
}
