from prefjax.rewards import log_sigmoid, logistic_cross_entropy
from tests.rewards.rows import Row

ROWS = {
    "log_sigmoid": Row(log_sigmoid, ("score",), {}),
    "logistic_cross_entropy": Row(logistic_cross_entropy, ("score",), {"wrong": 0.2}, each=("wrong",)),
}
