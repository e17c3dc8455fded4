"""What came of it: policies judged against each other, and how sure one may be."""

from prefjax.evaluate.intervals import Interval as Interval
from prefjax.evaluate.intervals import bootstrap_interval as bootstrap_interval
from prefjax.evaluate.intervals import mean_interval as mean_interval
from prefjax.evaluate.intervals import student_quantile as student_quantile
from prefjax.evaluate.intervals import wilson_interval as wilson_interval
from prefjax.evaluate.intervals import win_rate_interval as win_rate_interval
from prefjax.evaluate.tournament import cross_preferences as cross_preferences
from prefjax.evaluate.tournament import tournament as tournament
