"""Pretrained diffusion models, seen as: noisy views, times, conditions -> (clean estimate, noise estimate)."""

from typing import Any

from .attention import Attention, AttentionSwitch
from .backdrop import BackdropPrior
from .base import DepthConditioned, Prediction, Prior
from .compiling import Compile, Compiler
from .controlnet import ControlNetPrior
from .deepfloyd import DeepFloydPrior, is_deepfloyd
from .depth import DepthPrior, is_depth
from .diffusers_unet import DiffusersPrior
from .function import FunctionPrior
from .shared_attention import NeighbourLists, view_ring

__all__ = [
    "Attention",
    "AttentionSwitch",
    "BackdropPrior",
    "Compile",
    "Compiler",
    "ControlNetPrior",
    "DeepFloydPrior",
    "DepthConditioned",
    "DepthPrior",
    "DiffusersPrior",
    "FunctionPrior",
    "NeighbourLists",
    "Prediction",
    "Prior",
    "view_ring",
    "wrap",
]


def wrap(
    pipe: Any,
    *,
    window: tuple[int, int] | None = None,
    compiler: Compiler | None = None,
    attention: AttentionSwitch | None = None,
    neighbours: NeighbourLists | None = None,
    conditioning_scale: float = 1.0,
) -> DiffusersPrior | DeepFloydPrior:
    """The prior inside a diffusers pipeline, by the adapter of its family; the other arguments are as there.

    ``conditioning_scale`` plays a part only where there is a ControlNet. Priors that take depth are
    ``isinstance(prior, DepthConditioned)``.

    Raises:
        ValueError: the pipeline is of no supported family (says what it lacks).
    """
    if is_deepfloyd(pipe):
        if neighbours is not None:
            raise ValueError(
                "neighbours shares the self-attention of views, which the layers of IFPipeline mix with the text: use "
                "neighbours=None, or a Stable Diffusion pipeline."
            )
        return DeepFloydPrior(pipe, window=window, compiler=compiler, attention=attention)
    if getattr(pipe, "controlnet", None) is not None:
        return ControlNetPrior(
            pipe,
            conditioning_scale=conditioning_scale,
            window=window,
            compiler=compiler,
            attention=attention,
            neighbours=neighbours,
        )
    adapter = DepthPrior if is_depth(pipe) else DiffusersPrior
    return adapter(pipe, window=window, compiler=compiler, attention=attention, neighbours=neighbours)
