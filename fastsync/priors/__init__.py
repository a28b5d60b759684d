"""Pretrained diffusion models, seen as: noisy views, times, conditions -> (clean estimate, noise estimate)."""

from typing import Any

from .base import Prediction, Prior
from .deepfloyd import DeepFloydPrior, is_deepfloyd
from .diffusers_unet import DiffusersPrior
from .function import FunctionPrior

__all__ = ["DeepFloydPrior", "DiffusersPrior", "FunctionPrior", "Prediction", "Prior", "wrap"]


def wrap(pipe: Any, *, window: tuple[int, int] | None = None) -> DiffusersPrior | DeepFloydPrior:
    """The prior inside a diffusers pipeline, by the adapter of its family; ``window`` as there.

    Raises:
        ValueError: the pipeline is of no supported family (says what it lacks).
    """
    return DeepFloydPrior(pipe, window=window) if is_deepfloyd(pipe) else DiffusersPrior(pipe, window=window)
