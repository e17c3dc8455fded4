"""Finite decision processes: what a policy is worth, and what the best one is."""

from prefjax.bellman.mdp import FiniteMDP as FiniteMDP
from prefjax.bellman.mdp import action_values as action_values
from prefjax.bellman.mdp import check_mdp as check_mdp
from prefjax.bellman.mdp import policy_evaluation as policy_evaluation
from prefjax.bellman.mdp import value_iteration as value_iteration
