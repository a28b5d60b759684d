"""From a diffusers pipeline to its prior."""

from __future__ import annotations

import inspect
from typing import Any

from ..diffusion import SolverChoice
from .base import PipelinePrior
from .controlnet import ControlNetPrior
from .depth import DepthPrior, is_depth
from .diffusers_unet import DiffusersPrior
from .registry import Adapter, adapter_of
from .runtime import Runtime
from .shared_attention import NeighbourLists


def wrap(
    pipe: Any,
    *,
    window: tuple[int, int] | None = None,
    runtime: Runtime | None = None,
    solver: SolverChoice = "auto",
    neighbours: NeighbourLists | None = None,
    conditioning_scale: float | None = None,
) -> PipelinePrior:
    """The prior inside a diffusers pipeline, by the adapter of its class.

    Args:
        pipe: on its device, in its dtype, with its scheduler.
        window: (h, w) of a view in the prior's sample units; the model's own size if None.
        runtime: how the networks run while they sample; made of the pipeline if None.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``; see :class:`fastsync.diffusion.NoiseSchedule`.
        neighbours: views whose self-attention is shared; see :class:`fastsync.DiffusersPrior`.
        conditioning_scale: what the residuals of a ControlNet are multiplied by, 1 if None.

    Raises:
        ValueError: the pipeline or its scheduler is not supported (says what it lacks), or its adapter cannot do what
            is asked for.
    """
    adapter = adapter_of(pipe) or _by_structure(pipe)
    asked: dict[str, Any] = {}
    if neighbours is not None:
        if not _takes(adapter, "neighbours"):
            raise ValueError(
                f"neighbours shares the self-attention of views, which is not supported in {type(pipe).__name__}: use "
                "neighbours=None, or a Stable Diffusion pipeline."
            )
        asked["neighbours"] = neighbours
    if conditioning_scale is not None and _takes(adapter, "conditioning_scale"):
        asked["conditioning_scale"] = conditioning_scale
    return adapter(pipe, window=window, runtime=runtime, solver=solver, **asked)


def _by_structure(pipe: Any) -> Adapter:
    """The adapter of a pipeline of an unknown class that is built like one of Stable Diffusion's."""
    if getattr(pipe, "controlnet", None) is not None:
        return ControlNetPrior
    return DepthPrior if is_depth(pipe) else DiffusersPrior


def _takes(adapter: Adapter, argument: str) -> bool:
    return argument in inspect.signature(adapter).parameters
