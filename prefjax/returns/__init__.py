"""Returns and advantages: what a step was worth, seen from its end, or beside its like."""

from prefjax.returns.advantage import discounted_returns as discounted_returns
from prefjax.returns.advantage import generalized_advantage_estimation as generalized_advantage_estimation
from prefjax.returns.groups import batch_scaled_advantages as batch_scaled_advantages
from prefjax.returns.groups import dr_grpo_advantages as dr_grpo_advantages
from prefjax.returns.groups import grpo_advantages as grpo_advantages
from prefjax.returns.groups import opo_advantages as opo_advantages
from prefjax.returns.groups import remax_advantages as remax_advantages
from prefjax.returns.groups import reward_standard_deviation as reward_standard_deviation
from prefjax.returns.groups import rloo_advantages as rloo_advantages
from prefjax.returns.recurrence import linear_recurrence as linear_recurrence
from prefjax.returns.whitening import whitened as whitened
