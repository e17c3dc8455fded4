"""A policy joined to a loss: objectives, references, rollouts and judges; each a function, none a trainer."""

from prefjax.align.best_of_n import best_of_n as best_of_n
from prefjax.align.best_of_n import round_robin as round_robin
from prefjax.align.judges import preference_judge as preference_judge
from prefjax.align.judges import preference_objective as preference_objective
from prefjax.align.judges import reward_judge as reward_judge
from prefjax.align.judges import reward_objective as reward_objective
from prefjax.align.nash_md import nash_md_objective as nash_md_objective
from prefjax.align.nash_md import nash_md_rollout as nash_md_rollout
from prefjax.align.nash_md import rows_of as rows_of
from prefjax.align.pairs import PAIRED_LOSSES as PAIRED_LOSSES
from prefjax.align.pairs import PairedLoss as PairedLoss
from prefjax.align.pairs import add_reference as add_reference
from prefjax.align.pairs import loss_at_start as loss_at_start
from prefjax.align.pairs import paired_objective as paired_objective
from prefjax.align.rows import Rows as Rows
from prefjax.align.rows import joined as joined
from prefjax.align.rows import stacked as stacked
from prefjax.align.rows import summed_logps as summed_logps
from prefjax.align.supervised import sft_objective as sft_objective
