"""Canvas to views by tables of taps, and the adjoint: atomic, or sorted with the same bits in every run."""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._tiles import laid_out, packed

_BLOCK = 256


@triton.jit
def _resample(
    z, index, weight, views, C, cells, pixels, blocks,
    TAPS: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    view = (program // blocks).to(tl.int64)
    p = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[:, None]
    live = p < pixels
    total = tl.zeros([CHANNELS, BLOCK], tl.float32)
    for k in range(TAPS):
        tap = (view * pixels + p) * TAPS + k
        cell = tl.load(index + tap, mask=live, other=-1).to(tl.int64)
        used = cell >= 0
        share = tl.load(weight + tap, mask=used, other=0.0).to(tl.float32)
        if LAST:
            offset = cell[None, :] * C + c
        else:
            offset = c * cells + cell[None, :]
        total += share[None, :] * tl.load(z + offset, mask=used[None, :] & (c < C), other=0.0).to(tl.float32)
    tl.store(views + (view * C + c) * pixels + p[None, :], total, mask=live[None, :] & (c < C))


@triton.jit
def _splat_atomic(
    views, index, weight, canvas, C, cells, pixels, blocks,
    TAPS: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    view = (program // blocks).to(tl.int64)
    p = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[:, None]
    live = p < pixels
    if LAST:
        offset = (view * pixels + p)[None, :] * C + c
    else:
        offset = (view * C + c) * pixels + p[None, :]
    value = tl.load(views + offset, mask=live[None, :] & (c < C), other=0.0).to(tl.float32)
    for k in range(TAPS):
        tap = (view * pixels + p) * TAPS + k
        cell = tl.load(index + tap, mask=live, other=-1).to(tl.int64)
        used = cell >= 0
        share = tl.load(weight + tap, mask=used, other=0.0).to(tl.float32)
        target = canvas + c * cells + cell[None, :]
        tl.atomic_add(target, share[None, :] * value, mask=used[None, :] & (c < C), sem="relaxed")


@triton.jit
def _splat_sorted(
    views, start, pixel, sorted_weight, canvas, C, cells, pixels,
    LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[:, None]
    live = cell < cells
    begin = tl.load(start + cell, mask=live, other=0)
    taps = tl.load(start + cell + 1, mask=live, other=0) - begin
    total = tl.zeros([CHANNELS, BLOCK], tl.float32)
    for k in range(tl.max(taps).to(tl.int32)):
        used = k < taps
        share = tl.load(sorted_weight + begin + k, mask=used, other=0.0).to(tl.float32)
        at = tl.load(pixel + begin + k, mask=used, other=0)
        if LAST:
            offset = at.to(tl.int64)[None, :] * C + c
        else:
            view = at // pixels
            offset = (view.to(tl.int64)[None, :] * C + c) * pixels + (at - view * pixels)[None, :]
        value = tl.load(views + offset, mask=used[None, :] & (c < C), other=0.0).to(tl.float32)
        total += share[None, :] * value
    tl.store(canvas + c * cells + cell[None, :], total, mask=live[None, :] & (c < C))


def resample(z: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Launcher of ``fastsync::resample``."""
    channels, height, width = z.shape[1:]
    pixels = index.shape[1] * index.shape[2]
    views = torch.empty((len(index), channels, *index.shape[1:3]), dtype=z.dtype, device=z.device)
    tensors, last = laid_out(z)
    together = min(triton.next_power_of_2(channels), 8)
    blocks = triton.cdiv(pixels, _BLOCK)
    with torch.cuda.device_of(z):
        _resample[(blocks * len(index), triton.cdiv(channels, together))](
            *tensors, *packed(index, weight), views, channels, height * width, pixels, blocks,
            TAPS=index.shape[3], LAST=last, CHANNELS=together, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return views


def splat(
    views: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    start: torch.Tensor | None,
    pixel: torch.Tensor | None,
    sorted_weight: torch.Tensor | None,
    size: Sequence[int],
) -> torch.Tensor:
    """Launcher of ``fastsync::splat``."""
    channels = views.shape[1]
    cells, pixels = size[0] * size[1], views.shape[2] * views.shape[3]
    tensors, last = laid_out(views)
    together = min(triton.next_power_of_2(channels), 8)
    chunks = triton.cdiv(channels, together)
    with torch.cuda.device_of(views):
        if start is not None:
            canvas = torch.empty((1, channels, *size), dtype=views.dtype, device=views.device)
            _splat_sorted[(triton.cdiv(cells, _BLOCK), chunks)](
                *tensors, *packed(start, pixel, sorted_weight), canvas, channels, cells, pixels,
                LAST=last, CHANNELS=together, BLOCK=_BLOCK, num_warps=4,
            )  # fmt: skip
            return canvas
        # Atomics add in float32, whatever the views' dtype.
        canvas = torch.zeros((1, channels, *size), dtype=torch.float32, device=views.device)
        blocks = triton.cdiv(pixels, _BLOCK)
        _splat_atomic[(blocks * len(views), chunks)](
            *tensors, *packed(index, weight), canvas, channels, cells, pixels, blocks,
            TAPS=index.shape[3], LAST=last, CHANNELS=together, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
    return canvas.to(views.dtype)
