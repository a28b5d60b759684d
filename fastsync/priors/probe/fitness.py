"""What a pipeline must have before it is called."""

from __future__ import annotations

from typing import Any

import torch


def modules_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The modules of a diffusers pipeline by name."""
    parts = {**vars(pipe), **pipe.components}
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}


def check_fit(pipe: Any) -> None:
    """ValueError, in one sentence, for a pipeline that no call would tell anything of."""
    name = type(pipe).__name__
    if not isinstance(getattr(pipe, "components", None), dict):
        raise ValueError(
            f"{name} is no diffusers pipeline: pass one, or wrap your network with fastsync.FunctionPrior."
        )
    networks = modules_of(pipe)
    if getattr(pipe, "scheduler", None) is None or not hasattr(pipe.scheduler, "step"):
        raise ValueError(f"{name} has no scheduler to take steps by: give it one, such as DDIMScheduler.")
    if not networks:
        raise ValueError(f"{name} has no network: pass a diffusers pipeline with its models loaded.")
    devices: dict[str, str] = {}
    for part, module in networks.items():
        if getattr(module, "is_cache_enabled", False):
            raise ValueError(
                f"the {part} of {name} caches from step to step, which views at different steps would mix up: call "
                f"pipe.{part}.disable_cache() first."
            )
        if any(isinstance(p, torch.nn.Dropout) and p.training and p.p > 0 for p in module.modules()):
            raise ValueError(
                f"the {part} of {name} is in training, where dropout draws random numbers that no seed repeats: call "
                f"pipe.{part}.eval() first."
            )
        if hasattr(module, "_hf_hook"):
            continue  # accelerate moves it when it is asked
        for tensor in module.parameters():
            devices.setdefault(tensor.device.type, part)
    if len(devices) > 1:
        places = " and ".join(f"its {part} on {device}" for device, part in devices.items())
        raise ValueError(f"{name} has {places}: move all of it to one device by pipe.to(device).")
