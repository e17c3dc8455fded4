"""Returns and advantages: what a step was worth, seen from its end."""

from prefjax.returns.advantage import discounted_returns as discounted_returns
from prefjax.returns.advantage import generalized_advantage_estimation as generalized_advantage_estimation
from prefjax.returns.recurrence import linear_recurrence as linear_recurrence
