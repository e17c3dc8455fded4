from prefjax.rewards import log_normal_cdf
from tests.rewards.rows import Row

ROWS = {"log_normal_cdf": Row(log_normal_cdf, ("score",), {})}
