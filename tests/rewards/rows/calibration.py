import functools

from prefjax.rewards import brier_score, expected_calibration_error, ranking_accuracy, reliability_curve
from tests.rewards.rows import Row

OF_PAIRS = ("probability N", "label N")
ROWS = {
    "ranking_accuracy": Row(ranking_accuracy, ("score", "score"), {}, gradient=False),
    "brier": Row(brier_score, ("probability", "label"), {}),
    "ece": Row(
        expected_calibration_error,
        OF_PAIRS,
        {},
        call=functools.partial(expected_calibration_error, num_bins=3),
    ),
    "reliability": Row(
        reliability_curve,
        OF_PAIRS,
        {},
        ("bins",) * 3,
        absent=True,
        call=functools.partial(reliability_curve, num_bins=3),
    ),
}
