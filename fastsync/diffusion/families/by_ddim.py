"""Any discrete scheduler's model run by DDIM, and any flow scheduler's by Euler: a scheduler made of its config."""

from __future__ import annotations

from typing import Any

from .base import VP_PREDICTIONS, Family, prediction_of
from .discrete import DDIM
from .flow import FlowEuler

FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", "FlowMatchHeunDiscreteScheduler")
RUN_BY_DDIM = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "SASolverScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    *FLOWS,
)
_COEFFICIENT_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
)


def by_ddim(scheduler: Any) -> Family:
    """DDIM, or flow Euler where the model predicts a flow, with the scheduler's betas or shift."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    config = scheduler.config
    if type(scheduler) is FlowMatchEulerDiscreteScheduler:
        return FlowEuler(scheduler)
    if type(scheduler).__name__ in FLOWS:
        return FlowEuler(FlowMatchEulerDiscreteScheduler.from_config(config))
    prediction = prediction_of(config, (*VP_PREDICTIONS, "flow"))
    if prediction == "flow":
        shift = config.get("flow_shift", 1.0)
        return FlowEuler(FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.num_train_timesteps, shift=shift))
    # from_config replaces values that a scheduler has by default by DDIM's own defaults: what the coefficients depend
    # on is handed over by name. A scheduler whose config is silent about clipping does not clip.
    given = {key: config[key] for key in _COEFFICIENT_KEYS if config.get(key) is not None}
    clipping = {key: bool(config.get(key)) for key in ("clip_sample", "thresholding")}
    return DDIM(DDIMScheduler.from_config(config, prediction_type=prediction, **given, **clipping))
