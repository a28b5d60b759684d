"""Windows to canvas: each canvas cell goes through the windows in their order and adds up those that hold it.

A program holds some cells of one canvas row, so that a window above or below it is passed by at once.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from ._tiles import laid_out, packed


@triton.jit
def _from(origin, size):
    # The interpreter rounds quotients like Python, the compiler like C.
    rest = origin % size
    return tl.where(rest < 0, rest + size, rest).to(tl.int32)


@triton.jit
def _kernel(
    views, weights, origins, previous, canvas, count, C, h, w, H, W, across, weight_stride,
    LAST: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = program // across
    x = program % across * BLOCK + tl.arange(0, BLOCK)
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[:, None]
    total = tl.zeros([CHANNELS, BLOCK], tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    for n in range(count):
        dy = row - _from(tl.load(origins + 2 * n), H)
        dy = tl.where(dy < 0, dy + H, dy)
        if dy < h:
            dx = x - _from(tl.load(origins + 2 * n + 1), W)
            dx = tl.where(dx < 0, dx + W, dx)
            inside = (x < W) & (dx < w)
            at = dy.to(tl.int64) * w + dx
            first = tl.zeros([1], tl.int64) + n
            if LAST:
                offset = (first * h * w + at)[None, :] * C + c
            else:
                offset = (first[:, None] * C + c) * h * w + at[None, :]
            if weights is not None:
                share = tl.load(weights + first * weight_stride + at, mask=inside, other=0.0).to(tl.float32)
                weight += share
                inside = inside & (share != 0)
                value = tl.load(views + offset, mask=inside[None, :] & (c < C), other=0.0).to(tl.float32)
                total += share[None, :] * value
            else:
                total += tl.load(views + offset, mask=inside[None, :] & (c < C), other=0.0).to(tl.float32)
    live = (x < W)[None, :] & (c < C)
    out = (c * H + row) * W + x[None, :]
    if weights is not None:
        covered = weight > 0
        total = total / tl.where(covered, weight, 1.0)[None, :]
        kept = tl.zeros([CHANNELS, BLOCK], tl.float32)
        if previous is not None:
            kept = tl.load(previous + out, mask=live & (covered == 0)[None, :], other=0.0).to(tl.float32)
        total = tl.where(covered[None, :], total, kept)
    tl.store(canvas + out, total, mask=live)


def accumulate(views: torch.Tensor, origins: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Launcher of ``fastsync::accumulate``."""
    return _launch(views, None, origins, size, None)


def merge(
    views: torch.Tensor,
    weights: torch.Tensor,
    origins: torch.Tensor,
    size: Sequence[int],
    previous: torch.Tensor | None,
) -> torch.Tensor:
    """Launcher of ``fastsync::merge``."""
    return _launch(views, weights, origins, size, previous)


def _launch(
    views: torch.Tensor,
    weights: torch.Tensor | None,
    origins: torch.Tensor,
    size: Sequence[int],
    previous: torch.Tensor | None,
) -> torch.Tensor:
    count, channels, height, width = views.shape
    canvas = torch.empty((1, channels, *size), dtype=views.dtype, device=views.device)
    tensors, last = laid_out(views)
    together = min(triton.next_power_of_2(channels), 8)
    block = min(triton.next_power_of_2(size[1]), 256)
    across = triton.cdiv(size[1], block)
    weight_stride = height * width if weights is not None and len(weights) > 1 else 0
    with torch.cuda.device_of(views):
        _kernel[(size[0] * across, triton.cdiv(channels, together))](
            *tensors, *packed(weights, origins, previous), canvas,
            count, channels, height, width, *size, across, weight_stride,
            LAST=last, CHANNELS=together, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return canvas
