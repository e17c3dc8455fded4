from prefjax.rewards import segment_rewards
from tests.rewards.rows import Row

ROWS = {"segment": Row(segment_rewards, ("score L", "place L", "mask L", "mask T"), {}, "T")}
