"""What a method sees of a run: states, noise, network and solver, each on its own."""

from .network import Network
from .noise import Noise
from .query import Evaluation, Query, Through
from .run import Run
from .states import Address, States
from .stepper import Estimates, Stepper
from .timetable import Timetable
from .units import decodes

__all__ = [
    "Address",
    "Estimates",
    "Evaluation",
    "Network",
    "Noise",
    "Query",
    "Run",
    "States",
    "Stepper",
    "Through",
    "Timetable",
    "decodes",
]
