from prefjax.rewards import (
    last_step_score,
    mean_step_score,
    min_step_score,
    product_step_score,
    progress_rewards,
)
from tests.rewards.rows import Row

STEPS = ("probability S", "mask S")
ROWS = {
    function.__name__: Row(function, STEPS, {}, absent=True)
    for function in (min_step_score, last_step_score, product_step_score, mean_step_score)
} | {"progress": Row(progress_rewards, (*STEPS, "probability"), {}, "S")}
