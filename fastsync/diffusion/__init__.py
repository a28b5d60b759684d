"""Signal and noise of any supported scheduler, and the tables of steps that a run takes."""

from .schedule import NoiseSchedule
from .schedule import Solver as SolverChoice
from .solvers import solver_estimate
from .table import StepTable, is_vanishing

__all__ = ["NoiseSchedule", "SolverChoice", "StepTable", "is_vanishing", "solver_estimate"]
