"""From a diffusers pipeline to its prior."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..diffusion import SolverChoice
from ..errors import check_pair, shown
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
    pipe_kwargs: Mapping[str, Any] | None = None,
) -> PipelinePrior:
    """The prior inside a diffusers pipeline, by the adapter of its class.

    Args:
        pipe: on its device, in its dtype, with its scheduler.
        window: (height, width) of a view in pixels; the pipeline's own size if None.
        runtime: how the networks run while they sample; made of the pipeline if None.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``; see :class:`fastsync.diffusion.NoiseSchedule`.
        neighbours: views whose self-attention is shared; see :class:`fastsync.DiffusersPrior`.
        conditioning_scale: what the residuals of a ControlNet are multiplied by, 1 if None.
        pipe_kwargs: further arguments of the pipeline's own call, which an adapter does not make.

    Raises:
        ValueError: the pipeline or its scheduler is not supported (says what it lacks), its adapter cannot do what is
            asked for, or the window is none that the network takes.
        TypeError: ``window`` is no pair, or ``pipe_kwargs`` no mapping with names.
    """
    if window is not None:
        window = check_pair("window", window)
    adapter = adapter_of(pipe) or _by_structure(pipe)
    if pipe_kwargs:
        check_names(pipe, pipe_kwargs)
        raise ValueError(
            f"pipe_kwargs has {', '.join(map(repr, pipe_kwargs))} for the call of {type(pipe).__name__}, but its "
            "adapter asks the network without that call: leave pipe_kwargs out."
        )
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
    prior = adapter(pipe, window=None, runtime=runtime, solver=solver, **asked)
    if window is None or window == prior.window_pixels:
        return prior
    return adapter(pipe, window=window_cells(prior, window), runtime=runtime, solver=solver, **asked)


def window_cells(prior: PipelinePrior, window: tuple[int, int]) -> tuple[int, int]:
    """A window in pixels in a prior's sample units; ValueError where its network takes none of that size."""
    step = prior.scale * prior.window_multiple
    for name, side in zip(("height", "width"), window, strict=True):
        if side % step:
            low = side - side % step
            near = f"{low} or {low + step}" if low else f"{step}"
            raise ValueError(
                f"the window's {name} must be a multiple of {step} pixels for {type(prior.pipe).__name__}, got {side}: "
                f"use {near}."
            )
    return window[0] // prior.scale, window[1] // prior.scale


def check_names(pipe: Any, pipe_kwargs: Mapping[str, Any]) -> None:
    """TypeError for names that are no strings, ValueError for arguments that a pipeline's call does not take."""
    if not isinstance(pipe_kwargs, Mapping) or not all(isinstance(name, str) for name in pipe_kwargs):
        raise TypeError(
            f"pipe_kwargs must be a dictionary of arguments by name, got {shown(pipe_kwargs)}: pass e.g. "
            "{'clip_skip': 1}."
        )
    known = _names_of_call(type(pipe))
    unknown = [name for name in pipe_kwargs if name not in known] if known else []
    if unknown:
        raise ValueError(
            f"pipe_kwargs has {unknown[0]!r}, which the call of {type(pipe).__name__} does not take: it takes "
            f"{', '.join(known)}."
        )


def _names_of_call(kind: type) -> list[str]:
    """The arguments of a pipeline class's call; none where it takes any name.

    What a class hands on by ``**kwargs`` its base classes name. Pipelines of diffusers' own have them for deprecated
    arguments only, and drop all others.
    """
    names: list[str] = []
    for owner in (c for c in kind.__mro__ if "__call__" in vars(c)):
        parameters = list(inspect.signature(owner.__call__).parameters.values())[1:]
        further = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not further or owner.__module__.startswith("diffusers."):
            return list(dict.fromkeys(names))
    return []


def _by_structure(pipe: Any) -> Adapter:
    """The adapter of a pipeline of an unknown class that is built like one of Stable Diffusion's."""
    if getattr(pipe, "controlnet", None) is not None:
        return ControlNetPrior
    return DepthPrior if is_depth(pipe) else DiffusersPrior


def _takes(adapter: Adapter, argument: str) -> bool:
    return argument in inspect.signature(adapter).parameters
