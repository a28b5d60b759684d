"""What is wrong with the arguments of a run, said before any network call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .canvases.base import Canvas, LinearCanvas
from .conditions import Conditions, check_alike, check_views
from .diffusion import StepTable, is_vanishing
from .errors import check_tensor, shape_text, shown
from .guidance import Guidance
from .methods.base import Method
from .priors.base import Prior
from .run import Run, decodes


def check_parts(prior: Any, canvas: Any, method: Any) -> None:
    """TypeError where one of the three is something else."""
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a method object such as fastsync.SyncVC(), got {shown(method)}"
            f"{': create an instance' if isinstance(method, type) else ''}."
        )
    if not isinstance(prior, Prior):
        raise TypeError(
            f"prior must be a prior such as fastsync.FunctionPrior(...), got {shown(prior)}: wrap a network with "
            "FunctionPrior and a pipeline with fastsync.priors.wrap, or subclass fastsync.Prior."
        )
    if not isinstance(canvas, Canvas):
        raise TypeError(f"canvas must be a canvas such as fastsync.WideCanvas(...), got {shown(canvas)}.")


def merging(canvas: Canvas, method: Method) -> LinearCanvas:
    """The canvas as the method's views see it; TypeError where views cannot be merged into it."""
    if method.noise_use == "read":
        # Some canvases have a view more where views follow one another.
        canvas = canvas.chained()
    if not isinstance(canvas, LinearCanvas):
        raise TypeError(
            f"{type(method).__name__} needs a canvas that views can be merged into, and {type(canvas).__name__} is "
            "only seen by them: derive it from fastsync.LinearCanvas."
        )
    return canvas


def check_generator(generator: Any) -> None:
    """TypeError for what is no generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {shown(generator)}: use torch.Generator().manual_seed(0)."
        )


def check_noise(canvas: LinearCanvas, method: Method, eta: float) -> None:
    """ValueError where the canvas's maps spoil the noise that the method passes between views."""
    name = type(method).__name__
    if method.noise_use == "merged" and canvas.whiteness != "exact":
        raise ValueError(
            f"{name} merges noisy states, which a canvas that resamples them does not keep white: use SyncTweedies, "
            f"{'' if canvas.whiteness == 'none' else 'SyncSDE or SyncVC, '}or a canvas of crops or permutations."
        )
    if canvas.whiteness == "none" and (method.noise_use == "read" or eta > 0):
        raise ValueError(
            f"{name if method.noise_use == 'read' else 'eta above 0'} passes noise from view to view, and a view of "
            "this canvas shows cells twice or not at all, so that it would not stay white: use SyncTweedies with "
            "eta=0, or views that are permutations."
        )


def check_table(prior: Prior, canvas: LinearCanvas, table: StepTable) -> None:
    """ValueError where the prior's prediction says nothing, or the solver's noise would not stay white."""
    if prior.schedule.prediction_type == "epsilon" and is_vanishing(table.a):
        raise ValueError(
            "the scheduler starts at a time without signal (a_t = 0, rescale_betas_zero_snr), where a prediction of "
            "epsilon does not tell x0: use a model of v_prediction, or timestep_spacing='leading'."
        )
    if canvas.whiteness == "none" and table.stochastic:
        raise ValueError(
            f"the solver {prior.schedule.solver} adds noise at every step, and a view of this canvas shows cells twice "
            "or not at all, so that it would not stay white: use a deterministic scheduler, or views that are "
            "permutations."
        )


def check_view_shape(prior: Prior, canvas: LinearCanvas, method: Method) -> None:
    """One sentence where the canvas's views are not, in its units, what prior and method work on."""
    c, h, w = prior.view_shape
    scale = prior.scale
    shapes = {"cells": (c, h, w), "pixels": (3, scale * h, scale * w) if scale > 1 else (c, h, w)}
    cells, pixels = (shape_text(shape) for shape in shapes.values())
    if decodes(prior, canvas) and not method.takes_pixels:
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
    if method.takes_pixels and scale > 1:
        units, also = f" in {canvas.units}", f", in pixels {pixels}"
        mend = f"units={fitting[0]!r}" if fitting else mend
    raise ValueError(
        f"the canvas's views are {shape_text(given)}{units} but the prior's are {cells} (C, h, w){also}: build the "
        f"canvas with {mend}."
    )


def checked_conditions(
    prior: Prior, canvas: LinearCanvas, cond: Any, uncond: Any, guidance: Guidance
) -> tuple[Conditions | None, Conditions | None]:
    """Conditions of all views on the prior's device; ``uncond`` None where guidance has no effect."""
    found: list[Conditions | None] = []
    for name, value in (("cond", cond), ("uncond", uncond)):
        conditions = None if value is None else Conditions.of(value, prior.condition_name, name)
        if conditions is not None:
            check_views(name, conditions, canvas.num_views)
        found.append(conditions)
    given, given_uncond = found
    if given_uncond is not None:
        if given is None:
            raise ValueError("uncond was given without cond: guidance needs both, so pass cond as well.")
        check_alike(given, given_uncond)
    if guidance.scale == 1.0:
        given_uncond = None
    device = prior.device
    memo: dict[int, torch.Tensor] = {}

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        # What both halves share stays shared.
        if id(tensor) not in memo:
            memo[id(tensor)] = recordable(tensor.to(device))
        return memo[id(tensor)]

    # Mapped while the caller's own tensors are alive, which the memo's keys are the addresses of.
    on_device = [c if c is None else c.map_all(moved) for c in (given, given_uncond)]
    return on_device[0], on_device[1]


def recordable(x: torch.Tensor) -> torch.Tensor:
    """The tensor; a copy of one made in inference mode, which autograd would refuse."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x


def check_start(canvas: LinearCanvas, prior: Prior, method: Method, start: Any) -> None:
    """TypeError or ValueError for clean views that a run of the method cannot begin from."""
    if start is None:
        return
    expected = (canvas.num_views, *prior.view_shape)
    if tuple(check_tensor("start", start).shape) != expected:
        raise ValueError(
            f"start must be clean views {shape_text(expected)}, got {shape_text(start.shape)}: encode a picture of "
            "each view with prior.encode."
        )
    if not method.takes_start:
        raise ValueError(
            f"start was given to {type(method).__name__}, which takes the first states for noise alone and makes its "
            "own of it: use another method, or leave start out."
        )


def state_dtype(prior: Prior, cond: Any, latents: Any, start: Any) -> torch.dtype:
    """States are float32, or float64 where the caller's tensors are."""
    if latents is not None:
        return torch.promote_types(check_tensor("latents", latents).dtype, torch.float32)
    dtype = torch.promote_types(prior.dtype, torch.float32)
    if start is not None:
        dtype = torch.promote_types(dtype, check_tensor("start", start).dtype)
    # Anything else is refused later, with a message.
    if isinstance(cond, (torch.Tensor, Mapping)) and not (isinstance(cond, torch.Tensor) and cond.ndim == 0):
        own = Conditions.of(cond).dtype
        dtype = dtype if own is None else torch.promote_types(dtype, own)
    return dtype


def initial_views(run: Run, latents: torch.Tensor | None, start: torch.Tensor | None) -> torch.Tensor:
    """The first noisy views [N, C, h, w], from the caller's noise or the run's own.

    With clean views ``start`` [N, C, h, w] they are those with noise, ``a start + b noise`` at the table's first time.
    """
    canvas, table = run.canvas, run.times.table
    canvas_shape = (1, run.prior.view_shape[0], *canvas.size)
    views_shape = (canvas.num_views, *run.prior.view_shape)
    if latents is None:
        views = run.noise.views()
    else:
        latents = recordable(latents).detach().to(run.device, run.dtype)
        if tuple(latents.shape) == canvas_shape and not run.in_pixels:
            views = canvas.project_noise(latents)
        elif tuple(latents.shape) == views_shape:
            views = latents
        else:
            raise ValueError(
                f"latents must be of {'' if run.in_pixels else f'canvas shape {shape_text(canvas_shape)} or of '}view "
                f"shape {shape_text(views_shape)}, got {shape_text(latents.shape)}."
            )
    if start is not None:
        clean = recordable(start).detach().to(run.device, run.dtype)
        return table.a[0].to(run.dtype) * clean + table.b[0].to(run.dtype) * views
    return views if table.start == 1.0 else views * table.start
