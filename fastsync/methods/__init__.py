"""Rules that keep trajectories in agreement, one file each."""

from .base import Method
from .independent import Independent
from .multidiffusion import MultiDiffusion
from .stochsync import StochSync
from .syncdiffusion import SyncDiffusion
from .syncsde import SyncSDE
from .synctweedies import SyncTweedies
from .syncvc import SyncVC

__all__ = [
    "Independent",
    "Method",
    "MultiDiffusion",
    "StochSync",
    "SyncDiffusion",
    "SyncSDE",
    "SyncTweedies",
    "SyncVC",
]
