"""``sample``: the one loop. It knows no method and no task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm.auto import tqdm

from . import conditions, scheduling
from .batches import Batches
from .canvases.base import Canvas, LinearCanvas
from .conditions import Condition
from .diffusion import is_vanishing
from .errors import check_choice, check_device, check_int, check_number, check_tensor, shape_text, shown
from .methods.base import Method
from .priors.base import Prior
from .run import Run
from .stats import Stats

Callback = Callable[[int, torch.Tensor, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor] | None]


@dataclass(frozen=True)
class SyncOutput:
    """The result of ``sample``.

    Attributes:
        canvas: [1, C, H, W], the merged result in the prior's sample units (in pixels if the canvas is).
        views: [N, C, h, w], the final views, in the same units.
        stats: what the run spent.
    """

    canvas: torch.Tensor
    views: torch.Tensor
    stats: Stats


def sample(
    prior: Prior,
    canvas: Canvas,
    method: Method,
    *,
    cond: Condition | None = None,
    uncond: Condition | None = None,
    guidance_scale: float = 7.5,
    num_inference_steps: int = 50,
    eta: float = 0.0,
    latents: torch.Tensor | None = None,
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
        canvas: the canonical space, e.g. :class:`fastsync.WideCanvas`; its views have the prior's ``view_shape``, or
            that in pixels if the canvas's ``units`` are pixels and the method merges pictures (SyncTweedies,
            StochSync).
        method: e.g. ``fastsync.SyncVC()``, ``fastsync.MultiDiffusion()``.
        cond, uncond: conditions [N, ...], or [1, ...] for all views alike; a tensor, or a tuple of them for a network
            that takes several, such as text states and control images. Guidance needs both, and they may share members.
        guidance_scale: s in ``eps = eps_u + s (eps_c - eps_u)``; used only with ``uncond``. At exactly 1 the
            unconditional half has no effect and is not evaluated.
        num_inference_steps: T.
        eta: 0 (deterministic) to 1; see :meth:`fastsync.diffusion.NoiseSchedule.steps`.
        latents: initial noise, of canvas shape [1, C, H, W] (projected to the views) or of view shape [N, C, h, w]
            (used as it is); drawn from ``generator`` in canvas shape if None. float64 stays float64 from end to end;
            lower precisions are carried in float32.
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
        callback: ``callback(step, t, {"latents": [N, C, h, w]})`` after each step of all views; a returned mapping
            with ``"latents"`` replaces the views (not in the wavefront, where other views are already ahead).

    Returns:
        :class:`SyncOutput`.

    Raises:
        ValueError, TypeError: bad input, before any network call.
        FloatingPointError: a control's gradient (names view and step) or the result is not finite.
    """
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a method object such as fastsync.SyncVC(), got {shown(method)}"
            f"{': create an instance' if isinstance(method, type) else ''}."
        )
    if not hasattr(prior, "predict") or not hasattr(prior, "schedule"):
        raise TypeError(
            f"prior must be a prior such as fastsync.FunctionPrior(...), got {shown(prior)}: wrap a network with "
            "FunctionPrior and a pipeline with DiffusersPrior."
        )
    if not isinstance(canvas, Canvas):
        raise TypeError(f"canvas must be a canvas such as fastsync.WideCanvas(...), got {shown(canvas)}.")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable as callback(step, t, state), got {shown(callback)}.")
    dtype = _state_dtype(prior, cond, latents)
    if method.noise == "read":
        canvas = canvas.chained()
    if not isinstance(canvas, LinearCanvas):
        raise TypeError(
            f"{type(method).__name__} needs a canvas that views can be merged into, and {type(canvas).__name__} is "
            "only seen by them: derive it from fastsync.LinearCanvas."
        )
    _check_view_shape(prior, canvas, method)
    cond, uncond, guidance_scale = _check_conditions(prior, canvas, cond, uncond, guidance_scale)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {shown(generator)}: use torch.Generator().manual_seed(0)."
        )
    if isinstance(max_batch, str) and max_batch != "auto":
        raise ValueError(f"max_batch must be a whole number, 'auto' or None, got {shown(max_batch)}.")
    batches = Batches(max_batch == "auto", prior, method)
    most = batches.most if max_batch in (None, "auto") else check_int("max_batch", max_batch)
    if order is None:
        order = next((o for o in method.orders if callback is None or o != "wavefront"), "sequential")
    check_choice("order", order, scheduling.ORDERS)
    if order not in method.orders:
        raise ValueError(
            f"order={order!r} is not possible with {type(method).__name__}, whose views "
            f"{'all wait for each other at every step' if method.joins else 'wait for their earlier neighbours'}: "
            f"use one of {', '.join(map(repr, method.orders))}."
        )
    _check_noise(canvas, method, eta)
    table = method.table(prior.schedule, num_inference_steps, eta)
    if prior.schedule.prediction_type == "epsilon" and is_vanishing(table.a):
        raise ValueError(
            "the scheduler starts at a time without signal (a_t = 0, rescale_betas_zero_snr), where a prediction of "
            "epsilon does not tell x0: use a model of v_prediction, or timestep_spacing='leading'."
        )
    view_order = method.view_order(canvas)
    sources = method.sources(canvas, view_order)
    level = scheduling.levels(sources, view_order)
    # Controls need autograd, which inference mode cannot switch on again.
    with torch.inference_mode(False), torch.no_grad():
        run = Run(
            prior=prior,
            canvas=canvas,
            table=table,
            cond=cond,
            uncond=uncond,
            guidance_scale=guidance_scale,
            generator=generator,
            sources=sources,
            order=view_order,
            lifetimes=scheduling.lifetimes(order, sources, level, keep=callback is not None),
            dtype=dtype,
            device=prior.device if canvas_device is None else check_device("canvas_device", canvas_device),
            num_inference_steps=num_inference_steps,
            buckets=_buckets(order, view_order, level, len(table), most) if fixed_batches else None,
        )
        run.prepared = method.begin(run)
        run.start(_initial_views(run, latents))

    done = [0] * run.steps
    freeze = getattr(prior, "sampling", nullcontext)
    ticks = tqdm(total=run.steps * canvas.num_views, desc=type(method).__name__, disable=not progress)
    # Outside the controls nothing is recorded for autograd.
    with torch.inference_mode(False), torch.no_grad(), freeze(), ticks as bar:
        run.prepare_conditions()
        for batch in scheduling.plan(order, view_order, level, run.steps, most):
            for work in batches.advance(method, run, batch):
                bar.update(len(work))
                for _, step in work:
                    done[step] += 1
                    if done[step] == canvas.num_views:
                        if method.joins:
                            method.synchronise(run, step)
                        if callback is not None:
                            _call_back(callback, run, step, table.timesteps[step], order)
        result, views = method.finish(run, run.after(run.steps - 1))
    if not bool(torch.isfinite(result).all()):
        raise FloatingPointError(
            "the result has values that are NaN or infinite: run the prior in float32 or bfloat16, or look for them in "
            "what the network returns."
        )
    return SyncOutput(result, views, run.close())


def _buckets(
    order: scheduling.Order, views: Sequence[int], level: Sequence[int], steps: int, most: int | None
) -> list[int]:
    """The batch sizes of a run whose network is compiled: of whole batches, and of their views that read others."""
    plan = list(scheduling.plan(order, views, level, steps, most))
    return scheduling.bucket_sizes([len(work) for work in plan] + [sum(level[i] > 0 for i, _ in work) for work in plan])


def _call_back(callback: Callback, run: Run, step: int, t: torch.Tensor, order: str) -> None:
    answer = callback(step, t, {"latents": run.after(step)})
    if isinstance(answer, torch.Tensor):
        raise TypeError("the callback returned a tensor: return {'latents': tensor} to replace the views, or None.")
    if not isinstance(answer, Mapping) or "latents" not in answer:
        return
    if order == "wavefront":
        raise ValueError(
            "the callback returned latents, but in the wavefront other views are already ahead of this step: pass "
            "order='sequential', or return None."
        )
    latents = check_tensor("the callback's latents", answer["latents"])
    expected = run.after(step).shape
    if latents.shape != expected:
        raise ValueError(f"the callback's latents must be {shape_text(expected)}, got {shape_text(latents.shape)}.")
    run.replace_after(step, latents.to(run.device, run.dtype))


def _check_noise(canvas: Canvas, method: Method, eta: float) -> None:
    """One sentence where the canvas's maps spoil the noise that the method passes between views."""
    name = type(method).__name__
    if method.noise == "merged" and canvas.whiteness != "exact":
        raise ValueError(
            f"{name} merges noisy states, which a canvas that resamples them does not keep white: use SyncTweedies, "
            f"{'' if canvas.whiteness == 'none' else 'SyncSDE or SyncVC, '}or a canvas of crops or permutations."
        )
    if canvas.whiteness == "none" and (method.noise == "read" or eta > 0):
        raise ValueError(
            f"{name if method.noise == 'read' else 'eta above 0'} passes noise from view to view, and a view of this "
            "canvas shows cells twice or not at all, so that it would not stay white: use SyncTweedies with eta=0, or "
            "views that are permutations."
        )


def _state_dtype(prior: Prior, cond: Condition | None, latents: torch.Tensor | None) -> torch.dtype:
    """States are float32, or float64 where the caller's tensors are."""
    if latents is not None:
        return torch.promote_types(check_tensor("latents", latents).dtype, torch.float32)
    dtype = torch.promote_types(prior.dtype, torch.float32)
    for member in cond if isinstance(cond, tuple) else (cond,):
        # What is no tensor is refused later, in words.
        if isinstance(member, torch.Tensor) and member.is_floating_point():
            dtype = torch.promote_types(dtype, member.dtype)
    return dtype


def _check_view_shape(prior: Prior, canvas: Canvas, method: Method) -> None:
    """One sentence where the canvas's views are not, in its units, what prior and method work on."""
    c, h, w = prior.view_shape
    scale = getattr(prior, "scale", 1)
    shapes = {"cells": (c, h, w), "pixels": (3, scale * h, scale * w) if scale > 1 else (c, h, w)}
    cells, pixels = (shape_text(shape) for shape in shapes.values())
    if canvas.units == "pixels" and scale > 1 and not method.pixels:
        raise ValueError(
            f"the canvas's views are in pixels, but {type(method).__name__} works on the prior's own, {cells} "
            "(C, h, w): build the canvas with units='cells' and that view size, or use SyncTweedies or StochSync."
        )
    channels = [canvas.channels] if canvas.channels else []
    given = (*channels, *canvas.view_shape)
    fitting = [units for units, shape in shapes.items() if shape[-len(given) :] == given]
    if canvas.units in fitting:
        return
    units, also, mend = "", "", "the prior's view size"
    if method.pixels and scale > 1:
        units, also = f" in {canvas.units}", f", in pixels {pixels}"
        mend = f"units={fitting[0]!r}" if fitting else mend
    raise ValueError(
        f"the canvas's views are {shape_text(given)}{units} but the prior's are {cells} (C, h, w){also}: build the "
        f"canvas with {mend}."
    )


def _check_conditions(
    prior: Prior, canvas: Canvas, cond: Condition | None, uncond: Condition | None, guidance_scale: float
) -> tuple[Condition | None, Condition | None, float]:
    scale = check_number("guidance_scale", guidance_scale)
    for name, value in (("cond", cond), ("uncond", uncond)):
        if value is not None:
            conditions.check_condition(name, value, canvas.num_views)
    if uncond is not None:
        if cond is None:
            raise ValueError("uncond was given without cond: guidance needs both, so pass cond as well.")
        conditions.check_alike(cond, uncond)
    if scale == 1.0:
        uncond = None
    cond, uncond = conditions.both(lambda member: _recordable(member.to(prior.device)), cond, uncond)
    return cond, uncond, scale


def _recordable(x: torch.Tensor) -> torch.Tensor:
    """The tensor; a copy of one made in inference mode, which autograd would refuse."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x


def _initial_views(run: Run, latents: torch.Tensor | None) -> torch.Tensor:
    canvas = run.canvas
    canvas_shape = (1, run.prior.view_shape[0], *canvas.size)
    views_shape = (canvas.num_views, *run.prior.view_shape)
    if latents is None:
        return run.view_noise()
    latents = _recordable(latents).detach().to(run.device, run.dtype)
    if tuple(latents.shape) == canvas_shape and not run.pixels:
        return canvas.project_noise(latents)
    if tuple(latents.shape) == views_shape:
        return latents
    raise ValueError(
        f"latents must be of {'' if run.pixels else f'canvas shape {shape_text(canvas_shape)} or of '}view shape "
        f"{shape_text(views_shape)}, got {shape_text(latents.shape)}."
    )
