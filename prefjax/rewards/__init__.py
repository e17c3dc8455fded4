"""Scores of completions: what they say about a choice, and how well they are calibrated."""

from prefjax.rewards.choice import bradley_terry_probability as bradley_terry_probability
from prefjax.rewards.choice import two_input_probability as two_input_probability
