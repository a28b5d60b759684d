"""fastsync: several diffusion trajectories, sampled jointly so that their results agree."""

from . import priors
from .canvases import Canvas, IllusionCanvas, LinearCanvas, MaskCanvas, MeshCanvas, PanoramaCanvas, View, WideCanvas
from .conditions import Conditions
from .guidance import Guidance
from .methods import Independent, Method, MultiDiffusion, StochSync, SyncDiffusion, SyncSDE, SyncTweedies, SyncVC
from .pipeline import SyncPipeline
from .priors import (
    ByView,
    ControlNetPrior,
    DeepFloydPrior,
    DepthPrior,
    DiffusersPrior,
    FunctionPrior,
    Prediction,
    Prior,
    ProbedPrior,
    ReenteredPrior,
)
from .sampler import SyncOutput, sample
from .session import Session
from .stats import Stats
from .task import Options, SyncPipelineOutput
from .texture import SyncTextureOutput

__version__ = "0.1.0"

__all__ = [
    "ByView",
    "Canvas",
    "Conditions",
    "ControlNetPrior",
    "DeepFloydPrior",
    "DepthPrior",
    "DiffusersPrior",
    "FunctionPrior",
    "Guidance",
    "IllusionCanvas",
    "Independent",
    "LinearCanvas",
    "MaskCanvas",
    "MeshCanvas",
    "Method",
    "MultiDiffusion",
    "Options",
    "PanoramaCanvas",
    "Prediction",
    "Prior",
    "ProbedPrior",
    "ReenteredPrior",
    "Session",
    "Stats",
    "StochSync",
    "SyncOutput",
    "SyncDiffusion",
    "SyncPipeline",
    "SyncPipelineOutput",
    "SyncSDE",
    "SyncTextureOutput",
    "SyncTweedies",
    "SyncVC",
    "View",
    "WideCanvas",
    "priors",
    "sample",
]
