from prefjax.rewards import rank_correlation
from tests.rewards.rows import Row

ROWS = {
    "rank_correlation": Row(rank_correlation, ("score N", "score N"), {}, gradient=False, absent=True),
}
