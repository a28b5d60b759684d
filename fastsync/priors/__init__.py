"""Pretrained diffusion models, seen as: noisy views, times, conditions -> (clean estimate, noise estimate)."""

from typing import Any

from .attention import Attention, AttentionSwitch
from .base import Prediction, Prior
from .compiling import Compile, Compiler
from .deepfloyd import DeepFloydPrior, is_deepfloyd
from .diffusers_unet import DiffusersPrior
from .function import FunctionPrior

__all__ = [
    "Attention",
    "AttentionSwitch",
    "Compile",
    "Compiler",
    "DeepFloydPrior",
    "DiffusersPrior",
    "FunctionPrior",
    "Prediction",
    "Prior",
    "wrap",
]


def wrap(
    pipe: Any,
    *,
    window: tuple[int, int] | None = None,
    compiler: Compiler | None = None,
    attention: AttentionSwitch | None = None,
) -> DiffusersPrior | DeepFloydPrior:
    """The prior inside a diffusers pipeline, by the adapter of its family; the other arguments are as there.

    Raises:
        ValueError: the pipeline is of no supported family (says what it lacks).
    """
    adapter = DeepFloydPrior if is_deepfloyd(pipe) else DiffusersPrior
    return adapter(pipe, window=window, compiler=compiler, attention=attention)
