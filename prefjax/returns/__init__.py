"""Returns and advantages: what a step was worth, seen from its end, or beside its like."""

from prefjax.returns.advantage import discounted_returns as discounted_returns
from prefjax.returns.advantage import generalized_advantage_estimation as generalized_advantage_estimation
from prefjax.returns.baselines import gpg_advantages as gpg_advantages
from prefjax.returns.baselines import gpg_scale as gpg_scale
from prefjax.returns.baselines import max_at_k_advantages as max_at_k_advantages
from prefjax.returns.baselines import opo_advantages as opo_advantages
from prefjax.returns.baselines import pass_at_k_advantages as pass_at_k_advantages
from prefjax.returns.baselines import remax_advantages as remax_advantages
from prefjax.returns.baselines import soft_values as soft_values
from prefjax.returns.groups import batch_scaled_advantages as batch_scaled_advantages
from prefjax.returns.groups import dr_grpo_advantages as dr_grpo_advantages
from prefjax.returns.groups import dynamic_sampling_mask as dynamic_sampling_mask
from prefjax.returns.groups import grpo_advantages as grpo_advantages
from prefjax.returns.groups import reward_standard_deviation as reward_standard_deviation
from prefjax.returns.groups import rloo_advantages as rloo_advantages
from prefjax.returns.recurrence import linear_recurrence as linear_recurrence
from prefjax.returns.reinforce_plus_plus import (
    reinforce_plus_plus_advantages as reinforce_plus_plus_advantages,
)
from prefjax.returns.reinforce_plus_plus import (
    reinforce_plus_plus_baseline_advantages as reinforce_plus_plus_baseline_advantages,
)
from prefjax.returns.several import gdpo_advantages as gdpo_advantages
from prefjax.returns.several import gdpo_scores as gdpo_scores
from prefjax.returns.whitening import whitened as whitened
