from prefjax.rewards import answer_entropy, entropy_gains, entropy_slope
from tests.rewards.rows import Row

ROWS = {
    "answer_entropy": Row(answer_entropy, ("score M V", "mask M"), {}, absent=True),
    "entropy_gains": Row(entropy_gains, ("score T",), {}, "T-1"),
    "entropy_slope": Row(entropy_slope, ("score T",), {}),
}
