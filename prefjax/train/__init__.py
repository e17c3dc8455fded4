"""Any objective, taken step by step on any mesh; knows no loss and no policy."""

from prefjax.train.checkpoint import Checkpoints as Checkpoints
from prefjax.train.checkpoint import abstract_state as abstract_state
from prefjax.train.loop import Fitted as Fitted
from prefjax.train.loop import NonFinite as NonFinite
from prefjax.train.loop import Stopped as Stopped
from prefjax.train.loop import Validation as Validation
from prefjax.train.loop import fit as fit
from prefjax.train.mesh import check_division as check_division
from prefjax.train.mesh import copied as copied
from prefjax.train.mesh import make_mesh as make_mesh
from prefjax.train.mesh import parse_mesh as parse_mesh
from prefjax.train.mesh import place as place
from prefjax.train.mesh import split_over as split_over
from prefjax.train.mesh import spread as spread
from prefjax.train.mesh import start_processes as start_processes
from prefjax.train.metrics import Metrics as Metrics
from prefjax.train.metrics import read_metrics as read_metrics
from prefjax.train.optimizer import make_optimizer as make_optimizer
from prefjax.train.optimizer import make_schedule as make_schedule
from prefjax.train.step import TrainState as TrainState
from prefjax.train.step import init_state as init_state
from prefjax.train.step import make_measure as make_measure
from prefjax.train.step import make_step as make_step
from prefjax.train.step import step_key as step_key
