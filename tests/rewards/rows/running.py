from prefjax.rewards import RunningRewards, merged_running_rewards, running_rewards
from tests.rewards.rows import Row

STATE = ("count", "score", "variance", "score", "score")


def merged(*fields):
    return merged_running_rewards(RunningRewards(*fields[:5]), RunningRewards(*fields[5:]))


ROWS = {
    "running": Row(running_rewards, ("score N",), {}, ("",) * 5),
    "merged": Row(merged_running_rewards, STATE * 2, {}, ("",) * 5, call=merged),
}
