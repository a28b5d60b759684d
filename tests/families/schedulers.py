"""The schedulers that a family can be given: names to constructors from the pipeline's own scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers

from .registry import Family

Maker = Callable[[Any], Any]
UNCORRECTED = {"disable_corrector": list(range(1000))}

# What fastsync's NoiseSchedule accepts: name -> class, options.
VP: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    "lcm": (diffusers.LCMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-karras": (diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm-2m": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpm-2m-karras": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm-2m-sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpm-1": (diffusers.DPMSolverSinglestepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 1}),
    "unipc": (diffusers.UniPCMultistepScheduler, UNCORRECTED),
}
FLOW: dict[str, tuple[Any, dict[str, Any]]] = {
    "flow-euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
    "flow-euler-stochastic": (diffusers.FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}),
    "flow-lcm": (diffusers.FlowMatchLCMScheduler, {}),
    "flow-dpm-2m": (
        diffusers.DPMSolverMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "final_sigmas_type": "zero"},
    ),
    "flow-unipc": (
        diffusers.UniPCMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, **UNCORRECTED},
    ),
}


def convert(kind: Any, options: dict[str, Any], own: Any) -> Any:
    """Scheduler of class ``kind`` with the settings of the pipeline's ``own`` that it shares, and ``options``."""
    config = {k: v for k, v in own.config.items() if k in inspect.signature(kind.__init__).parameters}
    if "flow_shift" in inspect.signature(kind.__init__).parameters and "shift" in own.config:
        options = {"flow_shift": own.config.shift, **options}
    # A mode of another class may not exist in this one, so what the options name wins.
    return kind(**{**config, **options})


# Schedulers of the right curve that a pipeline's own call does not run with.
NO_SIGMAS = ("flow-dpm-2m",)  # the call passes sigmas, which this one does not take
NO_NOISE = ("flow-dpm-2m", "flow-unipc")  # besides, the call asks for scale_noise, or passes sigmas of another type
NO_VARIANCE = ("ddim", "lcm", "euler", "euler-karras", "euler-ancestral", "unipc")  # config.variance_type is read
NO_GENERATOR = tuple(
    name for name, (kind, _) in VP.items() if "generator" not in inspect.signature(kind.step).parameters
)
WITHOUT: dict[str, tuple[str, ...]] = {
    "ddpm": NO_GENERATOR,
    "lcm": tuple(name for name in VP if name != "lcm"),
    "sd-sag": ("euler", "euler-karras", "euler-ancestral"),
    **dict.fromkeys(("if", "if-img2img", "if-superresolution"), NO_VARIANCE),
    **dict.fromkeys(("bria", "bria-clipped"), (*NO_SIGMAS, "flow-lcm")),
    **dict.fromkeys(("sd3-img2img", "sd3-inpaint", "qwen-image-img2img", "qwen-image-inpaint"), NO_NOISE),
    **dict.fromkeys(("flux-img2img", "flux-inpaint", "flux-fill", "cogview4", "bria-fibo", "ernie"), NO_NOISE),
    **dict.fromkeys(("z-image", "z-image-normalised", "z-image-truncated", "z-image-img2img"), NO_NOISE),
    **dict.fromkeys(
        ("lumina2", "lumina2-linear", "lumina2-truncated", "qwen-image", "qwen-image-controlnet"), NO_SIGMAS
    ),
    **dict.fromkeys(
        ("flux-schnell", "flux-kontext", "flux-control", "flux-controlnet", "flux-controlnet-cfg"), NO_SIGMAS
    ),
    **dict.fromkeys(("flux-controlnet-union", "flux-controlnet-two", "flux-controlnet-end", "chroma"), NO_SIGMAS),
    **dict.fromkeys(("hidream", "ovis", "longcat", "krea2", "nucleus"), NO_SIGMAS),
    **dict.fromkeys((f"hunyuan-image-{kind}" for kind in ("distilled", "guider", "apg", "meanflow")), NO_SIGMAS),
}
MAKERS: dict[str, Maker] = {name: partial(convert, kind, options) for name, (kind, options) in {**VP, **FLOW}.items()}


def schedulers(family: Family) -> dict[str, Maker]:
    """Name to what ``Family.make(scheduler=...)`` takes, without the pipeline's own; empty for curves of no kind."""
    names = {"vp": VP, "flow": FLOW}.get(family.curve, {})
    return {name: MAKERS[name] for name in names if name not in WITHOUT.get(family.name, ())}
