"""Pretrained diffusion models, seen as: noisy views, times, conditions -> (clean estimate, noise estimate)."""

from .base import Prediction, Prior
from .diffusers_unet import DiffusersPrior
from .function import FunctionPrior

__all__ = ["DiffusersPrior", "FunctionPrior", "Prediction", "Prior"]
