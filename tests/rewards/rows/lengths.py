from prefjax.rewards import overlong_penalty
from tests.rewards.rows import Row

ROWS = {
    "overlong": Row(overlong_penalty, ("count",), {"max_length": 5.0, "cache": 3.0}, gradient=False),
}
