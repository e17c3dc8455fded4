"""Losses: log-probabilities, scores and preferences in; one number an example, or a token, out."""

from prefjax.losses.nash import nash_md_loss as nash_md_loss
from prefjax.losses.preference import apo_zero_loss as apo_zero_loss
from prefjax.losses.preference import dpo_loss as dpo_loss
from prefjax.losses.preference import hinge_loss as hinge_loss
from prefjax.losses.preference import ipo_loss as ipo_loss
from prefjax.losses.preference import robust_dpo_loss as robust_dpo_loss
from prefjax.losses.preference import sppo_hard_loss as sppo_hard_loss
from prefjax.losses.reward import bradley_terry_loss as bradley_terry_loss
from prefjax.losses.reward import preference_model_loss as preference_model_loss
from prefjax.losses.supervised import nll_loss as nll_loss
