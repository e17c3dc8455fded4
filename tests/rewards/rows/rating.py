from prefjax.rewards import ordinal_log_probabilities, ordinal_probabilities
from tests.rewards.rows import Row

TENSORS = ("score", "threshold K")
ROWS = {
    "ordinal": Row(ordinal_probabilities, TENSORS, {}, "K+1"),
    "ordinal_log": Row(ordinal_log_probabilities, TENSORS, {}, "K+1"),
}
