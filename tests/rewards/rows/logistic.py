from prefjax.rewards import log_sigmoid
from tests.rewards.rows import Row

ROWS = {"log_sigmoid": Row(log_sigmoid, ("score",), {})}
