"""Games of preference, solved exactly: what the sampled methods are measured against."""

from prefjax.games.equilibrium import duality_gap as duality_gap
from prefjax.games.equilibrium import regularized_nash as regularized_nash
from prefjax.games.mirror import geometric_mixture as geometric_mixture
from prefjax.games.mirror import nash_md as nash_md
from prefjax.games.mirror import nash_md_bound as nash_md_bound
from prefjax.games.mirror import nash_md_step as nash_md_step
from prefjax.games.preference import check_preference as check_preference
from prefjax.games.preference import expected_preference as expected_preference
from prefjax.games.preference import win_rate as win_rate
