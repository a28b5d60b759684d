"""Canvas to views and back by tables of taps (perspective cameras, textures)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from . import dispatch
from .declare import define
from .samples import LAYOUTS, Draw
from .shapes import widened
from .taps import Taps, sort_reference


def resample_reference(z: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x[n, :, p] = sum_k weight[n, p, k] z[0, :, index[n, p, k]]``; taps below 0 are not used."""
    flat, canvas = index.flatten().long(), widened(z[0].flatten(1))
    values = torch.where(flat >= 0, canvas[:, flat.clamp_min(0)], 0).unflatten(1, index.shape)
    views = (torch.where(index >= 0, weight, 0).to(canvas.dtype) * values).sum(-1).transpose(0, 1)
    return views.to(z.dtype).contiguous()


def splat_reference(
    views: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    start: torch.Tensor | None,
    pixel: torch.Tensor | None,
    sorted_weight: torch.Tensor | None,
    size: Sequence[int],
) -> torch.Tensor:
    """The adjoint of :func:`resample_reference`; the sorted form says the same, and is not read here."""
    flat, wide = index.flatten().long(), widened(views)
    values = wide.transpose(0, 1)[..., None] * weight.to(wide.dtype)
    values = torch.where(flat >= 0, values.flatten(1), 0)
    canvas = wide.new_zeros(wide.shape[1], size[0] * size[1]).index_add(1, flat.clamp_min(0), values)
    return canvas.reshape(1, -1, *size).to(views.dtype)


def _resample_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.size = list(given.z.shape[2:])
    ctx.save_for_backward(given.index, given.weight)


def _resample_backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (dispatch.call(SPLAT, g, *ctx.saved_tensors, None, None, None, ctx.size),)


def _random_taps(draw: Draw, views: int, window: tuple[int, int], size: tuple[int, int], taps: int) -> Taps:
    """Some taps are unused, some cells are read by nobody and one by many."""
    cells = size[0] * size[1]
    index = draw.integers(-cells // 4 - 1, cells, views, *window, taps).clamp_min(-1)
    index[:, 0, 0, 0] = 0
    weight = draw.uniform(views, *window, taps).to(torch.promote_types(draw.dtype, torch.float32))
    return Taps(index.int(), weight, size)


def _resample_samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    for views, window, size, taps, channels in draw.tables:
        for layout in LAYOUTS:
            table = _random_taps(draw, views, window, size, taps)
            yield draw.normal(1, channels, *size, layout=layout), table.index, table.weight


RESAMPLE = define(
    "resample",
    reference=resample_reference,
    triton="resample",
    native=("cpu",),
    fake=lambda given: given.z.new_empty(len(given.index), given.z.shape[1], *given.index.shape[1:3]),
    differentiable=("z",),
    setup_context=_resample_context,
    backward=_resample_backward,
    samples=_resample_samples,
)


def _splat_context(ctx: Any, given: Any, output: Any) -> None:
    ctx.save_for_backward(given.index, given.weight)


def _splat_backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return (dispatch.call(RESAMPLE, g, *ctx.saved_tensors),)


def splat_samples(draw: Draw) -> Iterator[tuple[Any, ...]]:
    """Arguments of ``fastsync::splat``, with taps sorted and as they come."""
    for views, window, size, taps, channels in draw.tables:
        for layout in LAYOUTS:
            table = _random_taps(draw, views, window, size, taps)
            colours = draw.normal(views, channels, *window, layout=layout)
            order = sort_reference(table.index, table.weight, size[0] * size[1])
            for form in (order, (None, None, None)):
                yield colours, table.index, table.weight, *form, list(size)


SPLAT = define(
    "splat",
    reference=splat_reference,
    triton="resample",
    native=("cpu", "cuda"),
    fake=lambda given: given.views.new_empty(1, given.views.shape[1], *given.size),
    differentiable=("views",),
    setup_context=_splat_context,
    backward=_splat_backward,
    samples=splat_samples,
)


def resample(z: torch.Tensor, taps: Taps) -> torch.Tensor:
    """Views [N, C, h, w] of a canvas z [1, C, H, W] by a table of taps; differentiable in z."""
    if z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != tuple(taps.size):
        raise ValueError(f"resample: z must be [1, C, {taps.size[0]}, {taps.size[1]}], got {list(z.shape)}.")
    return dispatch.call(RESAMPLE, z, *taps.tables(z.dtype)[:2])


def splat(views: torch.Tensor, taps: Taps) -> torch.Tensor:
    """The adjoint of :func:`resample`: views [N, C, h, w] added up on a canvas [1, C, H, W]; differentiable in views.

    With sorted taps the sums have the same bits in every run; on a CPU they always have, for any number of threads.
    """
    check_views("splat", views, taps)
    return dispatch.call(SPLAT, views, *taps.tables(views.dtype), list(taps.size))


def check_views(name: str, views: torch.Tensor, taps: Taps) -> None:
    """One sentence where views [N, C, h, w] are not those of the table."""
    n, h, w, _ = taps.index.shape
    if views.ndim != 4 or (views.shape[0], *views.shape[2:]) != (n, h, w):
        raise ValueError(f"{name}: views must be [{n}, C, {h}, {w}] as the table's, got {list(views.shape)}.")
