"""Scores of completions: what they say about a choice, and how well they are calibrated."""

from prefjax.rewards.calibration import brier_score as brier_score
from prefjax.rewards.calibration import expected_calibration_error as expected_calibration_error
from prefjax.rewards.calibration import ranking_accuracy as ranking_accuracy
from prefjax.rewards.choice import bradley_terry_probability as bradley_terry_probability
from prefjax.rewards.choice import two_input_probability as two_input_probability
from prefjax.rewards.shaping import kl_shaped_rewards as kl_shaped_rewards
