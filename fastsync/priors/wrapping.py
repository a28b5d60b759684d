"""From a diffusers pipeline to its prior."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..diffusion import NoiseSchedule, SolverChoice
from ..errors import check_pair
from .base import PipelinePrior
from .depth import DepthPrior
from .probe.comparison import check_adapter
from .probe.fitness import check_fit
from .probe.refusal import CannotProbe
from .probed import ProbedPrior
from .reentry import ReenteredPrior, unasked
from .registry import Adapter, Unfit, own_adapter, users_adapter
from .request import ViewRequest
from .runtime import Runtime
from .shared_attention import NeighbourLists, not_shared


def wrap(
    pipe: Any,
    *,
    window: tuple[int, int] | None = None,
    runtime: Runtime | None = None,
    solver: SolverChoice = "auto",
    neighbours: NeighbourLists | None = None,
    conditioning_scale: float | None = None,
    pipe_kwargs: Mapping[str, Any] | None = None,
    example: ViewRequest | None = None,
    num_inference_steps: int | None = None,
) -> PipelinePrior:
    """The prior inside a diffusers pipeline: by an adapter of its class, by probing its call, or by entering its loop.

    Args:
        pipe: on its device, in its dtype, with its scheduler.
        window: (height, width) of a view in pixels; the pipeline's own size if None.
        runtime: how the networks run while they sample; made of the pipeline if None.
        solver: ``"auto"``, the scheduler's own, or ``"ddim"``; see :class:`fastsync.diffusion.NoiseSchedule`.
        neighbours: views whose self-attention is shared; see :class:`fastsync.DiffusersPrior`.
        conditioning_scale: what the residuals of a ControlNet are multiplied by, 1 if None.
        pipe_kwargs: further arguments of the pipeline's own call, which an adapter does not make.
        example, num_inference_steps: what is going to be asked, where that is known; see :class:`ProbedPrior`.

    Raises:
        ValueError: the pipeline or its scheduler is not supported (says what it lacks), its adapter cannot do what is
            asked for, or the window is none that the network takes.
        TypeError: ``window`` is no pair, or ``pipe_kwargs`` no mapping with names.
    """
    if window is not None:
        window = check_pair("window", window)
    asked: dict[str, Any] = {"runtime": runtime, "solver": solver}
    adapter = users_adapter(pipe)
    if adapter is not None:
        if pipe_kwargs:
            raise ValueError(
                f"pipe_kwargs has {', '.join(map(repr, pipe_kwargs))} for the call of {type(pipe).__name__}, but the "
                "adapter that is registered for it asks the network without that call: leave pipe_kwargs out."
            )
        prior = _adapted(adapter, pipe, window, neighbours, conditioning_scale, asked)
        check_adapter(prior, adapter)
        return prior
    adapter = own_adapter(pipe)
    if adapter is not None and not pipe_kwargs:
        check_fit(pipe)
        # A model of depth may come in a pipeline without a depth estimator; others are built or set otherwise.
        for own in dict.fromkeys((adapter, DepthPrior)):
            try:
                return _adapted(own, pipe, window, neighbours, conditioning_scale, asked)
            except Unfit:
                continue
    asked |= {"window": window, "conditioning_scale": conditioning_scale, "pipe_kwargs": pipe_kwargs}
    asked |= {"neighbours": neighbours, "example": example, "num_inference_steps": num_inference_steps}
    try:
        return ProbedPrior(pipe, **asked)
    except CannotProbe as probing:
        try:
            return ReenteredPrior(pipe, **asked)
        except CannotProbe as entering:
            raise unasked(pipe, probing, entering) from entering


def check(pipe: Any, solver: SolverChoice = "auto") -> None:
    """ValueError for a pipeline that cannot be one's prior whatever is asked of it; its networks are not asked."""
    if users_adapter(pipe) is None:
        check_fit(pipe)
        NoiseSchedule(pipe.scheduler, solver)


def _adapted(
    adapter: Adapter,
    pipe: Any,
    window: tuple[int, int] | None,
    neighbours: NeighbourLists | None,
    conditioning_scale: float | None,
    asked: dict[str, Any],
) -> PipelinePrior:
    """The prior by an adapter of the pipeline's class."""
    if neighbours is not None:
        if not _takes(adapter, "neighbours"):
            raise not_shared(pipe)
        asked = {**asked, "neighbours": neighbours}
    if conditioning_scale is not None and _takes(adapter, "conditioning_scale"):
        asked = {**asked, "conditioning_scale": conditioning_scale}
    prior = adapter(pipe, window=None, **asked)
    if window is None or window == prior.window_pixels:
        return prior
    return adapter(pipe, window=window_cells(prior, window), **asked)


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


def _takes(adapter: Adapter, argument: str) -> bool:
    return argument in inspect.signature(adapter).parameters
