"""Canvas to views and back by tables of taps (perspective cameras, textures)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import dispatch
from .shapes import widened
from .taps import Taps


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


@torch.library.custom_op("fastsync::resample", mutates_args=())
def _resample(z: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return dispatch.choose("resample", z)(z, index, weight)


@_resample.register_fake
def _(z: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return z.new_empty(index.shape[0], z.shape[1], *index.shape[1:3])


@torch.library.custom_op("fastsync::splat", mutates_args=())
def _splat(
    views: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    start: torch.Tensor | None,
    pixel: torch.Tensor | None,
    sorted_weight: torch.Tensor | None,
    size: Sequence[int],
) -> torch.Tensor:
    return dispatch.choose("splat", views)(views, index, weight, start, pixel, sorted_weight, size)


@_splat.register_fake
def _(views: torch.Tensor, *rest: Any) -> torch.Tensor:
    return views.new_empty(1, views.shape[1], *rest[-1])


def _remember_resample(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, index, weight = inputs
    ctx.size = list(z.shape[2:])
    ctx.save_for_backward(index, weight)


def _resample_backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    return _splat(g, *ctx.saved_tensors, None, None, None, ctx.size), None, None


def _remember_splat(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _splat_backward(ctx: Any, g: torch.Tensor) -> tuple[Any, ...]:
    return _resample(g, *ctx.saved_tensors), *[None] * 6


_resample.register_autograd(_resample_backward, setup_context=_remember_resample)
_splat.register_autograd(_splat_backward, setup_context=_remember_splat)


def resample(z: torch.Tensor, taps: Taps) -> torch.Tensor:
    """Views [N, C, h, w] of a canvas z [1, C, H, W] by a table of taps; differentiable in z."""
    if z.ndim != 4 or z.shape[0] != 1 or tuple(z.shape[2:]) != tuple(taps.size):
        raise ValueError(f"resample: z must be [1, C, {taps.size[0]}, {taps.size[1]}], got {list(z.shape)}.")
    views: torch.Tensor = dispatch.call("resample", _resample, z, z, *taps.tables(z.dtype)[:2])
    return views


def splat(views: torch.Tensor, taps: Taps) -> torch.Tensor:
    """The adjoint of :func:`resample`: views [N, C, h, w] added up on a canvas [1, C, H, W]; differentiable in views.

    With sorted taps the sums have the same bits in every run; on a CPU they always have, for any number of threads.
    """
    check_views("splat", views, taps)
    canvas: torch.Tensor = dispatch.call("splat", _splat, views, views, *taps.tables(views.dtype), list(taps.size))
    return canvas


def check_views(name: str, views: torch.Tensor, taps: Taps) -> None:
    """One sentence where views [N, C, h, w] are not those of the table."""
    n, h, w, _ = taps.index.shape
    if views.ndim != 4 or (views.shape[0], *views.shape[2:]) != (n, h, w):
        raise ValueError(f"{name}: views must be [{n}, C, {h}, {w}] as the table's, got {list(views.shape)}.")
