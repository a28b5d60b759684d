"""Which family a scheduler is of, by the name of its class, and why some are of none.

A family turns schedulers of one class into tables of steps of one form (docs/mathematics.md, "Steps and schedulers").
"""

from __future__ import annotations

from typing import Any

from .base import Family, Refusal
from .by_ddim import FLOWS, RUN_BY_DDIM, by_ddim
from .discrete import DDIM, DDPM, LCM
from .flow import FlowEuler, FlowLCM
from .multistep import DPMSolverMultistep, DPMSolverSinglestep, UniPC
from .sigmas import Euler, EulerAncestral

FAMILIES: dict[str, type[Family]] = {
    "DDIMScheduler": DDIM,
    "DDPMScheduler": DDPM,
    "LCMScheduler": LCM,
    "EulerDiscreteScheduler": Euler,
    "EulerAncestralDiscreteScheduler": EulerAncestral,
    "DPMSolverMultistepScheduler": DPMSolverMultistep,
    "DPMSolverSinglestepScheduler": DPMSolverSinglestep,
    "UniPCMultistepScheduler": UniPC,
    "FlowMatchEulerDiscreteScheduler": FlowEuler,
    "FlowMatchLCMScheduler": FlowLCM,
}

_MULTISTEP = "use DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)"
_FLOW = "use FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)"
_TWICE = "it asks the network twice a step"
_LONG = "it extrapolates from more than one step before"
_EDM = "its model is preconditioned as EDM's"

# Schedulers whose steps are of another form: why, and what to use instead.
OTHERS: dict[str, tuple[str, str | None]] = {
    "DEISMultistepScheduler": ("it extrapolates noise and not the clean estimate", _MULTISTEP),
    "HeunDiscreteScheduler": (_TWICE, _MULTISTEP),
    "KDPM2DiscreteScheduler": (_TWICE, _MULTISTEP),
    "KDPM2AncestralDiscreteScheduler": (_TWICE, _MULTISTEP),
    "DPMSolverSDEScheduler": (_TWICE, _MULTISTEP),
    "LMSDiscreteScheduler": (_LONG, _MULTISTEP),
    "PNDMScheduler": (_LONG, _MULTISTEP),
    "IPNDMScheduler": (_LONG, None),
    "SASolverScheduler": ("its corrector computes states anew from those before", _MULTISTEP),
    "TCDScheduler": ("it steps past the next time and adds noise back up to it", _MULTISTEP),
    "EDMEulerScheduler": (_EDM, None),
    "EDMDPMSolverMultistepScheduler": (_EDM, None),
    "SCMScheduler": ("its model's times are angles", None),
    "FlowMatchHeunDiscreteScheduler": (_TWICE, _FLOW),
}


def family_of(scheduler: Any, solver: str) -> Family:
    """The family that runs a scheduler.

    Args:
        scheduler: a diffusers scheduler.
        solver: ``"auto"``: by its own steps; ``"ddim"``: by DDIM (flow Euler), at the times that DDIM makes of its
            config.

    Raises:
        ValueError: in one sentence, why it cannot be run and what can.
    """
    name = type(scheduler).__name__
    if not hasattr(scheduler, "config") or not hasattr(scheduler.config, "get"):
        raise ValueError(f"scheduler {name} is not supported: pass {_names()}.")
    try:
        if solver == "ddim" and name in RUN_BY_DDIM:
            return by_ddim(scheduler)
        if name in FAMILIES:
            return FAMILIES[name](scheduler)
        raise Refusal(*OTHERS.get(name, ("its steps are not known here", None)))
    except Refusal as refusal:
        mend = refusal.mend or f"use {_names()}"
        if solver == "auto" and name in RUN_BY_DDIM:
            mend += f", or pass solver='ddim' to run it by {'Euler' if name in FLOWS else 'DDIM'}"
        raise ValueError(f"scheduler {name} is not supported, because {refusal.why}: {mend}.") from None


def _names() -> str:
    return f"one of diffusers' {', '.join(name.removesuffix('Scheduler') for name in FAMILIES)} schedulers"
