"""Pretrained diffusion models, seen as: noisy views, times, conditions -> (clean estimate, noise estimate)."""

from .attention import Attention, AttentionSwitch
from .backdrop import BackdropPrior
from .base import PipelinePrior, Prediction, Prior
from .codecs import Codec, VaeCodec
from .compiling import Compile, Compiler
from .controlnet import ControlNetPrior
from .deepfloyd import DeepFloydPrior
from .depth import DepthPrior
from .diffusers_unet import DiffusersPrior
from .function import FunctionPrior
from .probed import ProbedPrior
from .reentry import ReenteredPrior
from .registry import register
from .request import ByView, Told, ViewRequest
from .runtime import Runtime, save_memory
from .shared_attention import NeighbourLists, view_ring
from .wrapping import check, wrap

__all__ = [
    "Attention",
    "AttentionSwitch",
    "BackdropPrior",
    "ByView",
    "Codec",
    "Compile",
    "Compiler",
    "ControlNetPrior",
    "DeepFloydPrior",
    "DepthPrior",
    "DiffusersPrior",
    "FunctionPrior",
    "NeighbourLists",
    "PipelinePrior",
    "Prediction",
    "Prior",
    "ProbedPrior",
    "ReenteredPrior",
    "Runtime",
    "Told",
    "VaeCodec",
    "ViewRequest",
    "check",
    "register",
    "save_memory",
    "view_ring",
    "wrap",
]
