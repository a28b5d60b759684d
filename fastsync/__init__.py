"""fastsync: several diffusion trajectories, sampled jointly so that their results agree."""

from .canvases import Canvas, IllusionCanvas, PanoramaCanvas, View, WideCanvas
from .methods import Independent, Method, MultiDiffusion, SyncDiffusion, SyncSDE, SyncTweedies, SyncVC
from .pipeline import SyncPipeline, SyncPipelineOutput
from .priors import DiffusersPrior, FunctionPrior, Prediction, Prior
from .run import Stats
from .sampler import SyncOutput, sample

__version__ = "0.1.0"

__all__ = [
    "Canvas",
    "DiffusersPrior",
    "FunctionPrior",
    "IllusionCanvas",
    "Independent",
    "Method",
    "MultiDiffusion",
    "PanoramaCanvas",
    "Prediction",
    "Prior",
    "Stats",
    "SyncOutput",
    "SyncDiffusion",
    "SyncPipeline",
    "SyncPipelineOutput",
    "SyncSDE",
    "SyncTweedies",
    "SyncVC",
    "View",
    "WideCanvas",
    "sample",
]
