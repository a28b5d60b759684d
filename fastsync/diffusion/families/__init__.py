"""Which family a scheduler is of, by the name of its class, and why some are of none.

A family turns schedulers of one class into tables of steps of one form (docs/mathematics.md, "Steps and schedulers").
"""

from __future__ import annotations

from typing import Any

from .base import Family, Refusal
from .by_ddim import RUN_BY_DDIM, by_ddim
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

_MULTISTEP = "DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)"
_FLOW = "FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)"

# Schedulers whose steps are of another form: why, and what to use instead.
OTHERS: dict[str, Refusal] = {
    "DEISMultistepScheduler": Refusal("it extrapolates noise and not the clean estimate", _MULTISTEP),
    "HeunDiscreteScheduler": Refusal("it asks the network twice a step", _MULTISTEP),
    "KDPM2DiscreteScheduler": Refusal("it asks the network twice a step", _MULTISTEP),
    "KDPM2AncestralDiscreteScheduler": Refusal("it asks the network twice a step", _MULTISTEP),
    "DPMSolverSDEScheduler": Refusal("it asks the network twice a step", _MULTISTEP),
    "LMSDiscreteScheduler": Refusal("it extrapolates from more than one step before", _MULTISTEP),
    "PNDMScheduler": Refusal("it extrapolates from more than one step before", _MULTISTEP),
    "IPNDMScheduler": Refusal("it extrapolates from more than one step before", _MULTISTEP),
    "SASolverScheduler": Refusal("its corrector computes states anew from those before", _MULTISTEP),
    "TCDScheduler": Refusal("it steps to an earlier time than the next and adds noise from there", _MULTISTEP),
    "EDMEulerScheduler": Refusal("its model is preconditioned as EDM's, not of the form x = a x0 + b eps"),
    "EDMDPMSolverMultistepScheduler": Refusal("its model is preconditioned as EDM's, not of the form x = a x0 + b eps"),
    "SCMScheduler": Refusal("its model's times are angles, not of the form x = a x0 + b eps"),
    "FlowMatchHeunDiscreteScheduler": Refusal("it asks the network twice a step", _FLOW),
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
        raise OTHERS.get(name, Refusal("nobody has checked what its steps are"))
    except Refusal as refusal:
        mend = refusal.mend or _names()
        instead = ", or solver='ddim', which runs it by DDIM" if name in RUN_BY_DDIM and solver == "auto" else ""
        raise ValueError(f"scheduler {name} is not supported, because {refusal.why}: use {mend}{instead}.") from None


def _names() -> str:
    return f"one of diffusers' {', '.join(name.removesuffix('Scheduler') for name in FAMILIES)} schedulers"
