from prefjax.losses import dno_loss, dno_prct_loss, dno_prct_pairs, sample_win_rates
from tests.losses.rows import BETA, PAIR, Row

ROWS = {
    "dno": Row(dno_loss, (*PAIR, "preference", "preference"), BETA, 0.3),
    "dno_prct": Row(dno_prct_loss, PAIR, BETA, 0.3),
}
STATISTICS = (dno_prct_pairs, sample_win_rates)
