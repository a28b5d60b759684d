"""``sample``: a session from its first step to its last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from . import scheduling
from .canvases.base import Canvas
from .conditions import Conditions
from .errors import shown
from .guidance import Guidance
from .methods.base import Method
from .priors.base import Prior
from .session import Session, SessionState, SyncOutput

Callback = Callable[[int, torch.Tensor, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor] | None]

__all__ = ["Callback", "SyncOutput", "sample"]


def sample(
    prior: Prior,
    canvas: Canvas,
    method: Method,
    *,
    cond: torch.Tensor | Conditions | Mapping[str, Any] | None = None,
    uncond: torch.Tensor | Conditions | Mapping[str, Any] | None = None,
    guidance_scale: float | Guidance = 7.5,
    num_inference_steps: int = 50,
    eta: float = 0.0,
    latents: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    order: scheduling.Order | None = None,
    max_batch: int | Literal["auto"] | None = None,
    fixed_batches: bool = False,
    canvas_device: torch.device | str | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> SyncOutput:
    """Sample all views of a canvas jointly.

    Args:
        prior: the diffusion model, e.g. :class:`fastsync.FunctionPrior` or :class:`fastsync.DiffusersPrior`.
        canvas: the canonical space, e.g. :class:`fastsync.WideCanvas`; its views have the prior's ``view_shape``
            (or that in pixels, for a canvas with ``units="pixels"``).
        method: e.g. ``fastsync.SyncVC()``, ``fastsync.MultiDiffusion()``.
        cond, uncond: conditions [N, ...], or [1, ...] for all views alike: a tensor, or :class:`fastsync.Conditions`
            with names for a network that takes several, such as text states and control images. Guidance needs both,
            and they may share values.
        guidance_scale: s in ``eps = eps_u + s (eps_c - eps_u)``, a number or :class:`fastsync.Guidance`; used only with
            ``uncond``. At exactly 1 the unconditional half has no effect and is not evaluated.
        num_inference_steps: T.
        eta: 0 (deterministic) to 1; see :meth:`fastsync.diffusion.NoiseSchedule.steps`.
        latents: initial noise, of canvas shape [1, C, H, W] (projected to the views) or of view shape [N, C, h, w]
            (used as it is); drawn from ``generator`` in canvas shape if None. float64 stays float64 from end to end;
            lower precisions are carried in float32.
        start: clean views [N, C, h, w] in the prior's sample units that the run begins from: their noise, ``latents``
            or drawn, is added at the first time of the table. None: the run begins from noise alone.
        generator: makes the run repeatable, whatever the order and batches.
        order: ``"sequential"``, ``"batched"`` or ``"wavefront"`` (:mod:`fastsync.scheduling`); all give the same
            numbers up to floating-point batching effects. None takes the fastest that the method allows (with a
            callback: that keeps all views at one step).
        max_batch: most views in one network call (guidance doubles the rows); None for no limit; ``"auto"`` halves the
            batches whenever the memory is too small (``stats.max_batch`` says what fitted).
        fixed_batches: call the network with a few batch sizes only, for networks that are compiled for static shapes:
            smaller batches are padded (``stats.padded``, a few percent of all rows). The numbers stay the same.
        canvas_device: where canvas and states live, the prior's device if None. ``"cpu"`` makes room on a GPU for the
            network where the canvas is in pixels and huge; each of its calls then waits for the way there and back.
        progress: show a progress bar, one tick a view and step.
        callback: ``callback(step, t, {"latents": [N, C, h, w], "x0": [N, C, h, w]})`` after each step of all views,
            ``x0`` being their clean estimates; a returned mapping with ``"latents"`` replaces the views (not in the
            wavefront, where other views are already ahead).

    Returns:
        :class:`SyncOutput`.

    Raises:
        ValueError, TypeError: bad input, before any network call.
        FloatingPointError: a control's gradient (names view and step) or the result is not finite.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as callback(step, t, state), got {shown(callback)}.")
    session = Session(
        prior,
        canvas,
        method,
        cond=cond,
        uncond=uncond,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        eta=eta,
        latents=latents,
        start=start,
        generator=generator,
        order=order,
        max_batch=max_batch,
        fixed_batches=fixed_batches,
        canvas_device=canvas_device,
        progress=progress,
        previews=callback is not None,
    )
    with session:
        for state in session:
            if callback is not None:
                _call_back(callback, state, session)
        return session.result()


def _call_back(callback: Callback, state: SessionState, session: Session) -> None:
    answer = callback(state.step, state.t, {"latents": state.views, "x0": state.x0})
    if isinstance(answer, torch.Tensor):
        raise TypeError("the callback returned a tensor: return {'latents': tensor} to replace the views, or None.")
    if not isinstance(answer, Mapping) or "latents" not in answer:
        return
    if session.order == "wavefront":
        raise ValueError(
            "the callback returned latents, but in the wavefront other views are already ahead of this step: pass "
            "order='sequential', or return None."
        )
    session.replace(state.step, answer["latents"], "the callback's latents")
